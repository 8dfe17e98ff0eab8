"""Files and folders with the owner, mode and lock that they need."""

import contextlib
import fcntl
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

from commands import Failure

LOCK = ".lock"


def write(path: Path, text: str, mode: int = 0o644, owner: str = "root") -> None:
    """Write a file in one step, with its mode and owner."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    shutil.chown(new, owner, pwd.getpwnam(owner).pw_gid)
    new.replace(path)


def make_folder(path: Path, mode: int = 0o755, owner: str = "root", group: str = "") -> None:
    """Make a folder unless it is there, and see to its mode and owner."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, owner, group or pwd.getpwnam(owner).pw_gid)
    path.chmod(mode)


def check_traversable(path: Path) -> None:
    """Make sure that every user can reach what is in `path`."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o001:
            raise Failure(
                f"{folder} is closed to ordinary users, so jobs could not reach {path}.\n"
                f"Choose another state folder, or: chmod o+x {folder}"
            )


@contextlib.contextmanager
def exclusive(folder: Path, name: str = LOCK) -> Iterator[None]:
    """Let one process at a time change a cluster, or what the lock of that name is for."""
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
