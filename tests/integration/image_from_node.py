"""Images of programs that are installed on this machine, with all that these load."""

import os
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path


def archive(target: Path, programs: Iterable[str | Path], folders: Iterable[str] = ()) -> Path:
    """Pack programs, folders and the libraries that either are linked with; returns `target`.

    A program of the test's own goes to /usr/bin. /tmp is there, for everybody.
    """
    places = {_place(Path(program)): Path(program) for program in programs}
    for folder in folders:
        found = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
        places |= {str(path): path for path in found if path.is_file()}
    for path in list(places.values()):
        places |= {library: Path(library) for library in _linked(path)}
    with tarfile.open(target, "w", dereference=True) as tar:
        for place, path in sorted(places.items()):
            tar.add(path, place)
        _add_links_and_folders(tar)
    return target


def _place(program: Path) -> str:
    return str(program) if program.is_relative_to("/usr") else f"/usr/bin/{program.name}"


def _linked(path: Path) -> list[str]:
    said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", said.stdout)


def _add_links_and_folders(tar: tarfile.TarFile) -> None:
    shell = tarfile.TarInfo("bin")
    shell.type, shell.linkname = tarfile.SYMTYPE, "usr/bin"
    tar.addfile(shell)
    temporary = tarfile.TarInfo("tmp")
    temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
    tar.addfile(temporary)
