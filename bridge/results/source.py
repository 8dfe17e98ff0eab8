"""Open what the job left on the node: regular files and real folders, nothing else.

The job's owner made every name here, with whatever intent; a name is looked at before it is
opened, opened without following it, and looked at again. What cannot be taken now or ever raises
`Skip`; a node that is short of something raises `Trouble`, because the files stay.
"""

import errno
import os
import stat

from bridge.results.trouble import Trouble, words

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SKIPPED = {
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.ELOOP: "symlink",
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
    errno.ENXIO: "unreadable",
    errno.EIO: "unreadable",  # a broken disk does not mend; the rest must not wait for it
    errno.EUCLEAN: "unreadable",
    errno.EBADMSG: "unreadable",
}


class Skip(Exception):
    """A file that is left out; `kind` is a key of `remark.TEXTS`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def look(name: str, directory: int) -> os.stat_result:
    """Return the status of a name itself; raises `Skip`."""
    try:
        return os.lstat(name, dir_fd=directory)
    except OSError as error:
        raise unavailable(error, name) from error


def read(descriptor: int, size: int) -> bytes:
    """Read from an open file of the job's; raises `Skip`."""
    try:
        return os.read(descriptor, size)
    except OSError as error:
        raise unavailable(error, "a file of the job") from error


def unavailable(error: OSError, name: str) -> Skip | Trouble:
    """Return what to raise when something of the job's, called `name`, does not open or read."""
    kind = _SKIPPED.get(error.errno or 0)
    return Skip(kind) if kind else Trouble(words(error, f"the local {name!r}"))


def open_file(name: str, directory: int) -> tuple[int, bool]:
    """Open a regular file for reading; raises `Skip`.

    Returns its descriptor and whether its owner had to be given the right to read it.
    """
    status = look(name, directory)
    if not stat.S_ISREG(status.st_mode):
        raise Skip(kind_of(status.st_mode))
    granted = _grant(name, directory, status, 0o400)
    descriptor = _open(name, directory, _OPEN_FILE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Skip("vanished")
    return descriptor, granted


def open_directory(name: str, directory: int) -> tuple[int, bool]:
    """Open a folder for listing; raises `Skip` and returns like `open_file`."""
    status = look(name, directory)
    if not stat.S_ISDIR(status.st_mode):
        raise Skip(kind_of(status.st_mode))
    granted = _grant(name, directory, status, 0o500)
    return _open(name, directory, _OPEN_DIRECTORY), granted


def kind_of(mode: int) -> str:
    """Return the key of `remark.TEXTS` for something that is not what was to be opened."""
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISFIFO(mode):
        return "fifo"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "vanished"


def _grant(name: str, directory: int, status: os.stat_result, bits: int) -> bool:
    """Give the owner, if that is us, the permission `bits` that the job took from him.

    Else his own results would be lost with the local copy. Works on the very inode that was
    looked at, through /proc, because chmod(2) itself would follow a link.
    """
    if status.st_mode & bits == bits or status.st_uid != os.geteuid():
        return False
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    try:
        now = os.fstat(handle)
        if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
            return False
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(now.st_mode) | bits)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _open(name: str, directory: int, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        raise unavailable(error, name) from error
