"""Keep stdout.log and stderr.log in the result folder growing while the job runs.

A pass compares, then appends at most so many bytes per log. What is on the NAS stays as long
as it is a beginning of what the job has: when the job's file shrank, or the last bytes that
both have differ, the job began it anew, and so does the copy. A rewrite that this does not
see is put right by the final pass (`publish`), which compares everything.
"""

import os
import stat
from typing import Any

from bridge.results import plan, source, transfer
from bridge.results.folder import ResultFolder

LOGS = ("stdout.log", "stderr.log")
_TAIL_BYTES = 4096
_OPEN_LOG = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Do one pass of a plan (see `plan`); `more` in the answer: there is more to copy already."""
    return plan.carry_out(request, _pass)


def append_new(log: int, copy: int, limit: int) -> bool:
    """Append to `copy` what `log` has more, `limit` bytes at most; both are open files.

    Returns whether `log` has even more. Raises `source.Skip` when it cannot be read.
    """
    start = os.fstat(copy).st_size
    end = os.fstat(log).st_size
    if start > end or not _ends_alike(log, copy, start):
        os.ftruncate(copy, 0)
        start = 0
    stop = min(end, start + limit)
    os.lseek(log, start, os.SEEK_SET)
    while chunk := source.read(log, min(transfer.CHUNK_BYTES, stop - start)):
        transfer.write_at(copy, chunk, start)
        start += len(chunk)
    return stop < end


def open_copy(name: str, folder: ResultFolder, like: os.stat_result | None = None) -> int | None:
    """Open a log in the result folder for appending; None when its name is taken by no file.

    A new one is as closed to others as the job's (`like`), from its first byte on.
    """
    mode = stat.S_IMODE(like.st_mode) & 0o777 | 0o600 if like else 0o644
    try:
        descriptor = os.open(name, _OPEN_LOG, mode, dir_fd=folder.descriptor)
    except OSError as error:
        if isinstance(transfer.refusal(error), source.Skip):
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def _pass(wanted: plan.Plan, out: int, folder: ResultFolder) -> dict[str, Any]:
    if folder.is_complete:
        return {"more": False}
    unfinished = [_mirror(name, out, folder, wanted.max_bytes) for name in LOGS]
    return {"more": any(unfinished)}


def _mirror(name: str, out: int, folder: ResultFolder, limit: int) -> bool:
    try:
        log, _ = source.open_file(name, out)
    except source.Skip:
        return False
    try:
        copy = open_copy(name, folder, os.fstat(log))
        if copy is None:
            return False
        try:
            return append_new(log, copy, limit)
        finally:
            os.close(copy)
    except source.Skip:
        return False
    finally:
        os.close(log)


def _ends_alike(log: int, copy: int, size: int) -> bool:
    length = min(size, _TAIL_BYTES)
    try:
        return os.pread(log, length, size - length) == os.pread(copy, length, size - length)
    except OSError:
        return True  # an unreadable disk is no reason to throw the copy away
