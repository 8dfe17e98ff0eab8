"""Copy one file to the NAS: draft, fsync, read back, rename. Constant memory, whatever the size.

The checksum is made of the bytes read on the node, the read-back compares what the NAS holds
with it (after the kernel was asked to forget its own copy), and only then does the file get
its name. So a name in the results is always a whole, verified file. A file that has its name,
size and time already was put there by an earlier try and is not copied again.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from bridge.results import source
from bridge.results.folder import ResultFolder
from bridge.results.source import Skip
from bridge.results.trouble import Trouble

CHUNK_BYTES = 1 << 20
# What the kernel writes out or forgets at once. Of a whole large file it would do so in one
# go, in which a kernel without preemption lets nobody else have the CPU for 20 ms.
_STEP_BYTES = 4 * CHUNK_BYTES
_TRIES = 3
_HOLES = bytes(CHUNK_BYTES)
_SPARSE_LIMIT_BYTES = 1 << 40
_REFUSALS = {
    errno.EILSEQ: "name_refused",
    errno.EINVAL: "name_refused",
    errno.ENAMETOOLONG: "name_refused",
    errno.EISDIR: "in_the_way",
    errno.ENOTDIR: "in_the_way",
    errno.ENOTEMPTY: "in_the_way",
    errno.ELOOP: "in_the_way",
}


@dataclass(frozen=True)
class Copied:
    """A file that is on the NAS: bytes, their SHA-256 in hex, a remark's kind or ""."""

    size: int
    sha256: str
    remark: str = ""


def publish_file(name: str, from_directory: int, folder: ResultFolder, to_directory: int) -> Copied:
    """Bring one regular file under the same name into `to_directory`, a part of `folder`.

    Raises `Skip` when the file cannot be taken, OSError and `Trouble` for the NAS.
    """
    descriptor, granted = source.open_file(name, from_directory)
    try:
        copied = _publish(descriptor, name, folder, to_directory)
    finally:
        os.close(descriptor)
    return Copied(copied.size, copied.sha256, "made_readable") if granted else copied


def refusal(error: OSError) -> Exception:
    """Return `Skip` when the NAS refuses this one name for good, else the error itself.

    For errors of calls that look up or create a name, and of those only.
    """
    kind = _REFUSALS.get(error.errno or 0)
    return Skip(kind) if kind else error


def is_in_place(name: str, directory: int, wanted: os.stat_result) -> bool:
    """Whether an earlier try published this very file: it got its time when it was verified."""
    try:
        there = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refusal(error) from error
    # Some file systems keep times less finely than the nanosecond.
    return (
        stat.S_ISREG(there.st_mode)
        and there.st_size == wanted.st_size
        and there.st_mtime_ns // 1000 == wanted.st_mtime_ns // 1000
    )


def digest_of(descriptor: int, limit: int) -> Copied:
    """Return size and checksum of the first `limit` bytes of an open file of the job's."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(descriptor, min(CHUNK_BYTES, limit - size)):
        digest.update(chunk)
        size += len(chunk)
    return Copied(size, digest.hexdigest())


def read_back(descriptor: int) -> Copied:
    """Make a file on the NAS durable and return its size and checksum as the NAS has it."""
    os.fsync(descriptor)
    for offset in range(0, os.fstat(descriptor).st_size, _STEP_BYTES):
        _forget(descriptor, offset)
    os.lseek(descriptor, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    size = 0
    while chunk := os.read(descriptor, CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return Copied(size, digest.hexdigest())


def _forget(descriptor: int, offset: int) -> None:
    """Have the kernel begin to write out a step, or drop what is written of it."""
    os.posix_fadvise(descriptor, offset, _STEP_BYTES, os.POSIX_FADV_DONTNEED)


def dress(descriptor: int, like: os.stat_result) -> None:
    """Give a file on the NAS the permissions and the time of the job's file."""
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o777 | 0o400)
    os.utime(descriptor, ns=(like.st_mtime_ns, like.st_mtime_ns))


def write_at(target: int, content: bytes, offset: int) -> None:
    """Write all of `content` at `offset`; raises `Skip` where the NAS allows no file so large."""
    view = memoryview(content)
    step = offset // _STEP_BYTES
    while view:
        try:
            written = os.pwrite(target, view, offset)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise Skip("too_large") from error
            raise
        view, offset = view[written:], offset + written
    if offset // _STEP_BYTES > step:
        _forget(target, step * _STEP_BYTES)


def _publish(descriptor: int, name: str, folder: ResultFolder, to_directory: int) -> Copied:
    copied = Copied(0, "")
    for _ in range(_TRIES):
        before = os.fstat(descriptor)
        _check_sparseness(before)
        if is_in_place(name, to_directory, before):
            return digest_of(descriptor, before.st_size)
        copied = _copy_over(descriptor, before, name, folder, to_directory)
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            return copied
    return Copied(copied.size, copied.sha256, "changed")


def _check_sparseness(status: os.stat_result) -> None:
    """Refuse what costs one user nothing to make and the node hours to read."""
    if status.st_size > _SPARSE_LIMIT_BYTES and status.st_blocks * 512 < status.st_size // 100:
        raise Skip("too_sparse")


def _copy_over(
    descriptor: int, like: os.stat_result, name: str, folder: ResultFolder, to_directory: int
) -> Copied:
    target, draft = folder.draft()
    try:
        copied = _verified_copy(descriptor, target, like)
        _put(draft, name, folder, to_directory)
    except BaseException:
        folder.discard(draft)
        raise
    finally:
        os.close(target)
    return copied


def _put(draft: str, name: str, folder: ResultFolder, to_directory: int) -> None:
    try:
        folder.put(draft, name, to_directory)
    except OSError as error:
        raise refusal(error) from error


def _verified_copy(descriptor: int, target: int, like: os.stat_result) -> Copied:
    for _ in range(_TRIES):
        copied = _copy(descriptor, target, like.st_size)
        dress(target, like)
        if read_back(target) == copied:
            return copied
    raise Trouble(f"a file read back from the NAS differed from what was written {_TRIES} times")


def _copy(descriptor: int, target: int, limit: int) -> Copied:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(target, 0)
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(descriptor, min(CHUNK_BYTES, limit - size)):
        digest.update(chunk)
        if chunk != _HOLES[: len(chunk)]:
            write_at(target, chunk, size)
        size += len(chunk)
    os.ftruncate(target, size)
    return Copied(size, digest.hexdigest())
