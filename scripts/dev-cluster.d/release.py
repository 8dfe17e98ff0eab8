"""The releases of Slurm that a cluster may have: the installed one, or another one of Debian's.

The other ones are in trees that are made once, below CACHE. Nobody enters a tree, and nothing of
its packages is run to install it: copies of its Slurm programs name its loader and its libraries,
and so run here like the installed ones. Jobs, hooks, agents and Podman stay this machine's.
"""

import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from commands import PATH, Failure, attempt, call
from files import exclusive

CACHE = Path("/var/cache/sbridge")
INSTALLED = "installed"
SUITES = {"22.05": "bookworm", "24.11": "trixie", "26.05": "sid"}
RECIPE = "1"  # another one has trees made again
PACKAGES = (
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurm-wlm-mysql-plugin",
    "slurmctld",
    "slurmd",
    "slurmdbd",
)
_FIRST_WITH_AUTH_SLURM = (23, 11)
PACKAGES_PER_LINE = 30  # of progress


@functools.cache
def installed_release() -> str:
    """Return the installed Slurm's release, such as 22.05; empty when there is none."""
    said = attempt(["sh", "-c", "slurmctld -V || slurmd -V || true"]).stdout
    found = re.search(r"\d+\.\d+", said)
    return found[0] if found else ""


def chosen(release: str) -> str:
    """Return what to call a release in a cluster's settings."""
    return INSTALLED if release == installed_release() else release


def has_auth_slurm(release: str) -> bool:
    """Whether this Slurm can do without munge."""
    number = installed_release() if release == INSTALLED else release
    return tuple(map(int, number.split("."))) >= _FIRST_WITH_AUTH_SLURM


def programs(release: str) -> Path:
    """Return the folder of Slurm's commands; a tree has its daemons there, too."""
    return Path("/usr/bin") if release == INSTALLED else _tree(release) / "bin"


def search_path(release: str) -> str:
    """Return the PATH on which this release's programs come first."""
    return PATH if release == INSTALLED else f"{programs(release)}:{PATH}"


def plugins(release: str) -> Path | None:
    """Return the folder of its plugins, None where the programs find them by themselves."""
    return None if release == INSTALLED else _plugins(_tree(release))


def provide(release: str) -> None:
    """Make the tree of a release unless it is there, and show how far it is."""
    if release == INSTALLED:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with exclusive(CACHE, f".{_tree(release).name}.lock"):
        if not _is_complete(release):
            _make(release)
        _adapt_pmix(release)


def _tree(release: str) -> Path:
    return CACHE / f"slurm-{release}"


def _plugins(tree: Path) -> Path:
    (folder,) = tree.glob("usr/lib/*/slurm-wlm")
    return folder


def _stamp(release: str) -> Path:
    return _tree(release) / ".complete"


def _is_complete(release: str) -> bool:
    stamp = _stamp(release)
    return stamp.exists() and stamp.read_text() == RECIPE


def _make(release: str) -> None:
    """Fetch the packages, unpack them, and let their Slurm's programs find what belongs to them.

    What was fetched stays until the tree is complete: after a failure it is not fetched again.
    """
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"  slurm {release:<10} {time.monotonic() - began:6.2f} s  {what}", flush=True)

    tree, fetched = _tree(release), CACHE / f"slurm-{release}.packages"
    tell(f"making {tree} from Debian {SUITES[release]}")
    _fetch(SUITES[release], fetched, tell)
    tell("unpacking")
    shutil.rmtree(tree, ignore_errors=True)
    _unpack(fetched, tree)
    _adapt_programs(tree)
    version = call([str(tree / "bin/slurmd"), "-V"]).strip()
    if f" {release}." not in f"{version}.":
        tell(f"Debian {SUITES[release]} has moved on to another release")
    shutil.rmtree(fetched)
    _stamp(release).write_text(RECIPE)
    tell(f"made: {version}")


def _fetch(suite: str, fetched: Path, tell: Callable[[str], None]) -> None:
    """Have debootstrap find, fetch and check the packages and all that they need."""
    command = ["debootstrap", "--download-only", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", suite, str(fetched), _archive()]
    lines = []
    with subprocess.Popen(
        command,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        count = 0
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if line.startswith("I: Retrieving "):
                count += 1
                if count % PACKAGES_PER_LINE == 0:
                    tell(f"fetched {count} packages")
    if process.returncode:
        raise Failure(
            f"debootstrap could not fetch Slurm of Debian {suite}:\n" + "\n".join(lines[-8:])
        )


def _archive() -> str:
    """Return the address of the Debian archive that this machine's apt uses."""
    wanted = ["--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    found = call(["apt-get", "indextargets", *wanted]).split()
    if not found:
        raise Failure("apt knows no Debian archive here; add one to its sources.")
    return found[0]


def _unpack(fetched: Path, tree: Path) -> None:
    """Unpack every package into one tree; nothing in it may give anybody rights."""
    for folder in ("bin", "lib", "lib64", "sbin"):
        (tree / "usr" / folder).mkdir(parents=True)
        (tree / folder).symlink_to(f"usr/{folder}")
    for package in sorted(fetched.glob("var/cache/apt/archives/*.deb")):
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
        ) as content:
            command = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(tree)]
            subprocess.run(command, stdin=content.stdout, check=True)
    shutil.rmtree(tree / "usr/share")
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o755)


def _adapt_programs(tree: Path) -> None:
    """Put Slurm's programs into bin/, naming the tree's own loader and libraries.

    An old-style RPATH, unlike a RUNPATH, holds for what the libraries and plugins load, too.
    """
    libraries = _plugins(tree)
    (tree / "bin").unlink()
    (tree / "bin").mkdir()
    for program in _programs_in(tree):
        adapted = tree / "bin" / program.name.removesuffix("-wlm")
        shutil.copy(program, adapted)
        loader = call(["patchelf", "--print-interpreter", str(program)]).strip()
        call(
            [
                *("patchelf", "--set-interpreter", f"{tree}{loader}"),
                *("--force-rpath", "--set-rpath", f"{libraries}:{libraries.parent}"),
                str(adapted),
            ]
        )


def _adapt_pmix(release: str) -> None:
    """Have Slurm's plugin load the tree's own PMIx, and that its own parts, not this machine's.

    Both name a folder, not a library, so the name is replaced by one of the same length.
    """
    libraries = _plugins(_tree(release))
    folder = libraries.parent / "pmix2"
    theirs = b"/" + bytes(folder.relative_to(_tree(release)))
    alias = CACHE / f"p{release}"
    ours = bytes(alias).ljust(len(theirs), b"/")
    found = (*libraries.glob("mpi_pmix_v*.so"), *folder.glob("lib/libpmix.so.2"))
    for library in {path.resolve() for path in found}:
        content = library.read_bytes()
        if theirs not in content or len(ours) > len(theirs):
            continue
        alias.unlink(missing_ok=True)
        alias.symlink_to(folder)
        draft = library.with_name(f".{library.name}.new")
        draft.write_bytes(content.replace(theirs, ours))
        draft.chmod(library.stat().st_mode)
        draft.replace(library)


def _programs_in(tree: Path) -> Iterator[Path]:
    for path in (*tree.glob("usr/bin/s*"), *tree.glob("usr/sbin/s*")):
        if path.is_file() and not path.is_symlink() and b"libslurmfull.so" in path.read_bytes():
            yield path
