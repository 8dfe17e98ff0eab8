"""The result folder of one job: found or made, and written to through its descriptor only.

results/<JOB_ID> lies in a folder where everybody may create names, and job ids begin again
when a cluster is set up anew. So a folder that is there already is taken only when it is a
real directory of this user, closed to others' writing, and says itself (`.incomplete`, or
job_summary.json once complete) that it belongs to this submission and run; else
<JOB_ID>_2, _3 … is used, and when a stranger took these in advance, <JOB_ID>_<tag> or, that
being known from the job's comment, a name that nobody can guess. All names are resolved
against descriptors (openat(2) and its
kin) without following links, so renaming folders around us redirects nothing.
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bridge.results.trouble import Trouble

SUMMARY = "job_summary.json"
MARKER = ".incomplete"
DRAFT_PREFIX = ".part-"
_MAX_ALTERNATIVES = 99
_UNGUESSABLE = 3
_PLAIN_TAG = re.compile(r"[A-Za-z0-9-]{1,64}")  # it is the user's word
_MAX_RECORD_BYTES = 8 * 1024 * 1024
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_A_FOLDER_OF_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EACCES)


@dataclass(frozen=True)
class Claim:
    """Whose results a folder holds: the job's id, its submission's tag, the run's number."""

    job_id: int
    tag: str
    restart: int

    def record(self) -> dict[str, Any]:
        return {"job_id": self.job_id, "tag": self.tag, "restart": self.restart}


class ResultFolder:
    """An open result folder; `is_complete` when this very run was published into it before."""

    def __init__(self, descriptor: int, name: str, *, is_complete: bool) -> None:
        self.descriptor = descriptor
        self.name = name
        self.is_complete = is_complete

    def __enter__(self) -> "ResultFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)

    def draft(self) -> tuple[int, str]:
        """Create an empty file under a name of its own; returns its descriptor and name."""
        name = f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self.descriptor), name

    def put(self, draft: str, name: str, directory: int | None = None) -> None:
        """Rename a finished draft to `name`, in `directory` (a descriptor) when one is given."""
        target = self.descriptor if directory is None else directory
        os.rename(draft, name, src_dir_fd=self.descriptor, dst_dir_fd=target)

    def discard(self, draft: str) -> None:
        """Remove a draft that will not be used."""
        remove(draft, self.descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file into the folder, whole or not at all, and durably."""
        descriptor, draft = self.draft()
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            self.put(draft, name)
        except BaseException:
            self.discard(draft)
            raise
        sync_directory(self.descriptor)

    def remove_drafts(self) -> None:
        """Remove what a publication that crashed left half done."""
        for name in os.listdir(self.descriptor):
            if name.startswith(DRAFT_PREFIX):
                self.discard(name)


def open_folder(results: str, claim: Claim, chosen: str = "") -> ResultFolder:
    """Open the result folder of `claim` below `results`, creating it where there is none.

    `chosen` is the name that an earlier call used for this run, "" when there was none.
    Raises OSError as the NAS does, `Trouble` when no name is free.
    """
    root = os.open(results, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in _candidates(claim, chosen):
            folder = _try(root, name, claim, is_chosen=name == chosen)
            if folder is not None:
                return folder
    finally:
        os.close(root)
    raise Trouble(
        f"{claim.job_id}, {claim.job_id}_2 to _{_MAX_ALTERNATIVES} and others are all taken by "
        "folders that are not this job's"
    )


def sync_directory(descriptor: int) -> None:
    """Make the names in a folder durable, where its file system knows how."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def remove(name: str, directory: int) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return


def _candidates(claim: Claim, chosen: str) -> Iterator[str]:
    if chosen and "/" not in chosen and chosen not in (".", ".."):
        yield chosen
    yield str(claim.job_id)
    for number in range(2, _MAX_ALTERNATIVES + 1):
        yield f"{claim.job_id}_{number}"
    if _PLAIN_TAG.fullmatch(claim.tag):
        yield f"{claim.job_id}_{claim.tag}"
    for _ in range(_UNGUESSABLE):
        yield f"{claim.job_id}_{secrets.token_hex(8)}"


def _try(root: int, name: str, claim: Claim, *, is_chosen: bool) -> ResultFolder | None:
    is_new = _make(root, name)
    try:
        descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=root)
    except OSError as error:
        if error.errno in _NOT_A_FOLDER_OF_OURS:
            return None
        raise
    try:
        folder = _accept(descriptor, name, claim, is_new=is_new, is_chosen=is_chosen)
    except BaseException:
        os.close(descriptor)
        if is_new:
            _unmake(root, name)
        raise
    if folder is None:
        os.close(descriptor)
    return folder


def _make(root: int, name: str) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=root)
    except FileExistsError:
        return False
    return True


def _unmake(root: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=root)
    except OSError:
        return  # something is in it already, or somebody else's


def _accept(
    descriptor: int, name: str, claim: Claim, *, is_new: bool, is_chosen: bool
) -> ResultFolder | None:
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        if is_new:
            raise Trouble(
                f"{name} was made for uid {os.geteuid()}, but the NAS gives it to uid "
                f"{status.st_uid}: it must keep the users apart (no all_squash, no uid= option)"
            )
        return None
    if is_new:
        os.fchmod(descriptor, 0o755)  # the umask is not asked
    elif stat.S_IMODE(status.st_mode) & 0o022 and not is_chosen:
        return None
    summary = read_record(descriptor, SUMMARY)
    if summary is not None:
        is_ours = all(summary.get(key) == value for key, value in claim.record().items())
        return ResultFolder(descriptor, name, is_complete=True) if is_ours else None
    folder = ResultFolder(descriptor, name, is_complete=False)
    marker = read_record(descriptor, MARKER)
    if marker is None and (is_chosen or _is_empty(descriptor)):
        folder.write(MARKER, json.dumps(claim.record()).encode() + b"\n")
        return folder
    is_ours = marker is not None and all(
        marker.get(key) == value for key, value in claim.record().items() if key != "restart"
    )
    return folder if is_ours else None


def _is_empty(descriptor: int) -> bool:
    return all(name.startswith(DRAFT_PREFIX) for name in os.listdir(descriptor))


def read_record(directory: int, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a file, {} when it holds something else, None without a file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _NOT_A_FOLDER_OF_OURS:
            return {}
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        record = json.loads(os.read(descriptor, _MAX_RECORD_BYTES))
    except ValueError:
        return {}
    finally:
        os.close(descriptor)
    return record if isinstance(record, dict) else {}
