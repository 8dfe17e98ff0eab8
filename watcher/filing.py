"""Put a job file away, in processed/ or failed/, with the text that explains it beside it.

Works as the file's owner. Nothing is ever overwritten: where a name is taken, the next one
is " (2)". The text is made first, exclusively, and so reserves the name; then the file is
moved by rename. Both names are found again after a crash in between by the submission's tag,
which is in the text.
"""

import os
import stat
from pathlib import Path

from watcher import names

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_OF_A_TEXT = 1 << 20
_MOST_NAMES = 10_000


def put_away(source: Path, folder: Path, name: str, suffix: str, text: bytes, tag: str) -> str:
    """Move `source` into `folder` as `name` and write `text` as `name` + `suffix`.

    Returns the name that the file got. Raises OSError when it could not be done; then the
    file is still at `source`, and calling again is right.
    """
    room = names.MAX_BYTES - len(suffix)
    for number in range(1, _MOST_NAMES):
        target = folder / names.numbered(name, number, room)
        companion = target.with_name(target.name + suffix)
        if _reserve(companion, target, text, tag):
            _move(source, target)
            return target.name
    raise FileExistsError(f"{folder} has {_MOST_NAMES} files named {names.shown(name)}")


def _reserve(companion: Path, target: Path, text: bytes, tag: str) -> bool:
    """Write the text; False when somebody else has one of the two names."""
    try:
        descriptor = os.open(companion, _CREATE, 0o644)
    except FileExistsError:
        return _is_ours(companion, tag) and not os.path.lexists(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if os.path.lexists(target):
                raise _NameTaken
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except _NameTaken:
        companion.unlink()
        return False
    except BaseException:
        companion.unlink()
        raise
    return True


class _NameTaken(Exception):
    pass


def _is_ours(companion: Path, tag: str) -> bool:
    """Whether an earlier try for this submission wrote the text."""
    try:
        descriptor = os.open(companion, _READ)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        is_file = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        return is_file and tag.encode() in file.read(_MOST_OF_A_TEXT)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except PermissionError:
        # A folder that its owner may not write in cannot be moved to another one.
        status = source.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise
        source.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRWXU, follow_symlinks=False)
        source.rename(target)
