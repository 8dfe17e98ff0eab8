"""Look through the NAS folders, in a child: they may hang, vanish or be unreadable.

What cannot be looked at is unknown (`TemporaryError`), never empty.
"""

import os
import stat
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from inotify_simple import INotify, flags

from bridge.config import Nas
from bridge.errors import TemporaryError
from watcher.names import CLAIMS

_WATCHED = flags.CLOSE_WRITE | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
_CLAIMS_MODE = 0o1777
_OVERFLOW_UID = 65534


@dataclass(frozen=True)
class Entry:
    """What lies in a folder under a name; times in nanoseconds of the NAS's clock."""

    name: str
    uid: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def fingerprint(self) -> tuple[int, int, int, int]:
        """What changes when somebody still writes."""
        return (self.inode, self.size, self.modified_ns, self.changed_ns)


@dataclass(frozen=True)
class Scan:
    """Everything in submit/ and in its claim folder; `watch` is inotify's name of submit/.

    `watch` is None when inotify cannot watch, and `watch_trouble` says why.
    """

    drops: tuple[Entry, ...]
    claims: tuple[Entry, ...]
    watch: int | None = None
    watch_trouble: str = ""

    def as_json(self) -> Any:
        """Return what `from_json` reads."""
        lists = [[astuple(entry) for entry in entries] for entries in (self.drops, self.claims)]
        return [*lists, self.watch, self.watch_trouble]

    @classmethod
    def from_json(cls, value: Any) -> "Scan":
        """Read the answer of a child that scanned."""
        drops, claims, watch, trouble = value
        return cls(
            tuple(Entry(*fields) for fields in drops),
            tuple(Entry(*fields) for fields in claims),
            watch,
            trouble,
        )


def scan(nas: Nas, inotify: INotify | None) -> Scan:
    """Look through submit/ and its claim folder, and have inotify watch submit/.

    The watch comes first, so that nothing slips through between the two. It is put on the
    inotify instance that the parent reads. Raises `TemporaryError` naming the folder that
    cannot be used.
    """
    _check_folders(nas)
    claims = nas.submit / CLAIMS
    _make_claims(claims, nas.submit)
    watch, trouble = _watch(nas.submit, inotify)
    return Scan(_entries(nas.submit), _entries(claims), watch, trouble)


def _check_folders(nas: Nas) -> None:
    devices = {}
    for key in ("submit", "processed", "failed"):
        path = getattr(nas, key)
        try:
            status = path.stat()
        except OSError as error:
            raise TemporaryError(f"nas.{key}: {path}: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode):
            raise TemporaryError(f"nas.{key}: {path} is not a folder")
        devices[key] = status.st_dev
    if len(set(devices.values())) > 1:
        folders = f"{nas.submit}, {nas.processed} and {nas.failed}"
        raise TemporaryError(f"{folders} are not on one file system, so files cannot be moved")


def _make_claims(claims: Path, submit: Path) -> None:
    """Make the claim folder, or refuse one that a user made: he could rename others' claims."""
    try:
        claims.mkdir()
    except FileExistsError:
        pass
    except OSError as error:
        raise TemporaryError(f"{claims} cannot be made: {error.strerror}") from error
    status = claims.lstat()
    owners = {os.geteuid(), submit.stat().st_uid, _OVERFLOW_UID}
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise TemporaryError(
            f"{claims} belongs to uid {status.st_uid} and not to sbridge",
            hint="Look what is in it, then remove it; the watcher makes it anew.",
        )
    if stat.S_IMODE(status.st_mode) != _CLAIMS_MODE:
        claims.chmod(_CLAIMS_MODE)


def _watch(folder: Path, inotify: INotify | None) -> tuple[int | None, str]:
    if inotify is None:
        return None, "the machine gives no more of it; see fs.inotify.max_user_instances"
    try:
        return inotify.add_watch(folder, _WATCHED), ""
    except OSError as error:
        return None, error.strerror or str(error)


def _entries(folder: Path) -> tuple[Entry, ...]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found.append(
                Entry(
                    entry.name,
                    status.st_uid,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
            )
    return tuple(found)
