"""Images of programs with one of this machine's MPIs: what Debian's packages of it bring."""

from pathlib import Path

from tests.integration import image_from_node
from tests.integration.running_cluster import checked, run

PROGRAMS = ("exchange", "failing")
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_SHELL = ("/usr/bin/sh", "/usr/bin/env")
_PROGRAMS = {
    "mpich": ("/usr/bin/mpiexec.hydra", "/usr/bin/hydra_pmi_proxy"),
    "openmpi": ("/usr/bin/mpirun.openmpi", "/usr/bin/orted", "/usr/bin/ssh"),
}
# What these load by name.
_FOLDERS = {
    "mpich": (f"{_LIBRARIES}/ucx",),
    "openmpi": (
        *(f"{_LIBRARIES}/openmpi", f"{_LIBRARIES}/pmix2"),
        *("/usr/share/openmpi", "/etc/openmpi"),
    ),
}
FLAVOURS = tuple(_PROGRAMS)


def make(flavour: str, folder: Path) -> Path:
    """Compile the programs as /usr/bin/<name>-<flavour> and pack their image; returns the archive.

    `folder` is an empty one, for all of them.
    """
    programs = [folder / f"{name}-{flavour}" for name in PROGRAMS]
    for name, program in zip(PROGRAMS, programs, strict=True):
        source = Path(__file__).with_name(f"{name}.c")
        checked(run([f"mpicc.{flavour}", "-O2", "-o", str(program), str(source)]))
    content = (*programs, *_PROGRAMS[flavour], *_SHELL)
    return image_from_node.archive(folder / "image.tar", content, _FOLDERS[flavour])
