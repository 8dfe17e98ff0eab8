"""The batch script inside: a copy, since slurmd writes it when the sandbox is there already."""

import os

_LIMIT_BYTES = 64 * 1024 * 1024


def make(script: int, target: str, uid: int) -> None:
    """Copy the open script to `target`, for user `uid` to read and execute.

    Raises OSError, and leaves nothing then: it does not count against the user's quota.
    """
    draft = f"{target}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy = os.open(draft, flags, 0o500)
    try:
        _fill(copy, script)
        os.fchown(copy, uid, -1)
        os.rename(draft, target)
    except BaseException:
        os.unlink(draft)
        raise
    finally:
        os.close(copy)


def _fill(copy: int, script: int) -> None:
    size = 0
    while chunk := os.pread(script, 1 << 20, size):
        size += os.write(copy, chunk)
        if size > _LIMIT_BYTES:
            raise OSError("the script is larger than 64 MiB; put its data into another file")
