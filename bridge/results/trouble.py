"""What keeps results from being published, in words; each kind says whether to try again."""

import errno
import os

_CAUSES = {
    errno.ENOSPC: "the NAS is full",
    errno.EDQUOT: "the user's quota on the NAS is used up",
    errno.ESTALE: "the NAS folder went away under us (stale file handle)",
    errno.EIO: "the NAS answered with an input/output error",
    errno.EROFS: "the NAS is mounted read-only",
    errno.ENOENT: "it does not exist; is the NAS mounted?",
    errno.ENOTDIR: "it is not a folder; is the NAS mounted?",
    errno.EACCES: "the user may not write there",
    errno.EPERM: "the user may not do that there",
    errno.ETIMEDOUT: "the NAS does not answer",
    errno.EHOSTDOWN: "the NAS does not answer",
    errno.EHOSTUNREACH: "the NAS cannot be reached",
    errno.ENOTCONN: "the NAS is not connected",
    errno.ENOLCK: "the NAS has no locks left",
    errno.EMFILE: "this process has no file descriptors left",
    errno.ENFILE: "this node has no file descriptors left",
}


class Trouble(Exception):
    """The NAS or the node did not do its part; later it may. The text says what failed."""


class LocalFolderGone(Exception):
    """The job's own folder on this node is not there: nothing can be published, ever."""


def words(error: OSError, where: str) -> str:
    """Return "<where>: <cause> (<errno's name>)" for a person."""
    name = errno.errorcode.get(error.errno or 0, "no errno")
    cause = _CAUSES.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
    return f"{where}: {cause} ({name})"


def printable(path: str) -> str:
    """Return `path` on one line and as valid Unicode: control and odd bytes become escapes."""
    raw = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)
