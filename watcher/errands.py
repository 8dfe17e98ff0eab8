"""What a child does with one job file, from looking at it to putting it away.

The child begins as root, learns whose file it is, and becomes that user before it touches
anything. Files of system accounts and of nobody are moved to failed/ and never submitted;
a file of root's is moved as root. What became of the file goes back as an `Outcome`.
"""

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bridge import as_user, durable, job_spool
from bridge.as_user import User, UserNotFound
from bridge.config import Config
from bridge.slurm import submission
from bridge.slurm.lookup import FoundJob
from bridge.slurm.submission import (
    SlurmNotReached,
    Submission,
    SubmissionDoubtful,
    SubmissionRefused,
)
from validator.findings import Finding, error
from validator.limits import Limits
from watcher import filing, names
from watcher.error_file import Refusal, error_text
from watcher.inspection import Inspection, entry_finding, inspect
from watcher.receipt import Receipt, receipt_text

# Files that a NAS cannot map to an account appear as this one's.
_NOBODY = 65534
# Some network file systems know no fsync of a folder; their renames are the server's business.
_NO_SUCH_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


@dataclass(frozen=True)
class Outcome:
    """What became of a job file.

    kind          meaning                                                   where the file is
    deferred      its owner has his share of children; it was not touched   submit/
    gone          its owner took it back                                    -
    unsettled     empty: perhaps somebody is about to write it              submit/
    valid         nothing is wrong with it; Slurm was not to be asked yet   submit/
    submitted     `job_id`; put away as `filed_as`                          processed/
    refused       for `codes`; put away as `filed_as`                       failed/
    accepted      `job_id`, but it could not be put away (`reason`)         claimed
    hindered      the NAS failed (`reason`) before anything was decided     where it was
    not_reached   Slurm was not reached (`reason`)                          claimed
    doubtful      nobody knows what Slurm did (`reason`)                    claimed
    """

    kind: str
    owner: str = ""
    uid: int = -1
    claimed: bool = False
    job_id: int = 0
    submitted: float | None = None
    filed_as: str = ""
    reason: str = ""
    codes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what `Outcome(**value)` reads."""
        return asdict(self)


@dataclass(frozen=True)
class JobFilePath:
    """A job file on its way: where it is, its own name, and the submission's tag."""

    path: Path
    name: str
    tag: str


class Errand:
    """One child's work on one job file; `lock` is inherited by sbatch.

    A file of a user in `closed_to` is left alone: he has his share of children.
    """

    def __init__(self, config: Config, lock: int | None, closed_to: Sequence[int] = ()) -> None:
        self._config = config
        self._nas = config.nas
        self._limits = limits_of(config)
        self._lock = lock
        self._closed_to = closed_to
        self._owner = User("?", -1, _NOBODY, (), "/", "")
        self._claimed = False

    def take(self, name: str, tag: str, *, may_submit: bool, is_settled: bool) -> Outcome:
        """Claim the dropped file and submit it."""
        file = JobFilePath(self._nas.submit / name, name, tag)
        return self._guarded(lambda: self._take(file, may_submit, is_settled))

    def resume(self, entry: str) -> Outcome:
        """Submit the claimed file, which certainly is no job yet."""
        file = self._claimed_file(entry)
        return self._guarded(lambda: self._refuse_or(file, lambda: self._submit(file)))

    def complete(self, entry: str, job: FoundJob) -> Outcome:
        """Put the claimed file away, which became `job`."""
        file = self._claimed_file(entry)
        return self._guarded(lambda: self._refuse_or(file, lambda: self._complete(file, job)))

    def _claimed_file(self, entry: str) -> JobFilePath:
        parts = names.parse_claimed(entry)
        assert parts is not None
        self._claimed = True
        return JobFilePath(self._nas.submit / names.CLAIMS / entry, parts[1], parts[0])

    def _guarded(self, work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except FileNotFoundError as fault:
            return self._without_file(fault)
        except OSError as fault:
            return self._outcome("hindered", reason=as_user.describe(fault))

    def _without_file(self, fault: FileNotFoundError) -> Outcome:
        """Tell a file that its owner took back from a NAS that went away."""
        if self._nas.submit.is_dir():
            return self._outcome("gone")
        return self._outcome("hindered", reason=as_user.describe(fault))

    def _outcome(self, kind: str, **facts: Any) -> Outcome:
        owner = self._owner
        return Outcome(kind, owner=owner.name, uid=owner.uid, claimed=self._claimed, **facts)

    def _take(self, file: JobFilePath, may_submit: bool, is_settled: bool) -> Outcome:
        def go_on() -> Outcome:
            if not is_settled and file.path.lstat().st_size == 0:
                return self._outcome("unsettled")
            if not may_submit and self._inspect(file).is_acceptable:
                return self._outcome("valid")
            claimed = self._claim(file)
            return self._submit(claimed)

        return self._refuse_or(file, go_on)

    def _refuse_or(self, file: JobFilePath, go_on: Callable[[], Outcome]) -> Outcome:
        """Become the file's owner, then refuse what can be no job file, or go on."""
        status = file.path.lstat()
        if status.st_uid in self._closed_to:  # before he can stop this process
            return Outcome("deferred", uid=status.st_uid)
        finding = self._become_owner(status) or entry_finding(status)
        if finding:
            return self._refuse(file, [finding])
        return go_on()

    def _become_owner(self, status: os.stat_result) -> Finding | None:
        """Become the owner; return why no job can be run for him, if so."""
        uid = status.st_uid
        self._owner = User(str(uid), uid, _NOBODY, (), "/", "")
        finding = None
        try:
            self._owner = as_user.find_user(uid)
            if uid < self._config.watcher.min_uid:
                finding = error("owner_is_system", uid=uid)
            elif uid == _NOBODY:
                finding = error("owner_unknown", uid=uid)
        except UserNotFound:
            finding = error("owner_unknown", uid=uid)
        if uid != 0:
            as_user.become(uid, self._owner.gid, self._owner.groups)
        return finding

    def _claim(self, file: JobFilePath) -> JobFilePath:
        """Move the file out of its owner's way; durable, so that the tag never changes."""
        claims = self._nas.submit / names.CLAIMS
        path = claims / names.claimed(file.tag, file.name)
        file.path.rename(path)
        self._claimed = True
        _sync(claims)
        return JobFilePath(path, file.name, file.tag)

    def _inspect(self, file: JobFilePath) -> Inspection:
        return inspect(file.path, self._owner, self._limits, self._nas.results)

    def _submit(self, file: JobFilePath) -> Outcome:
        inspection = self._inspect(file)
        if not inspection.is_acceptable:
            return self._refuse(file, inspection.findings)
        try:
            accepted = submission.submit(
                self._submission(file, inspection),
                self._owner,
                self._config.slurm,
                timeout_s=self._config.watcher.sbatch_timeout_s,
                kept_open=() if self._lock is None else (self._lock,),
            )
        except SubmissionRefused as refusal:
            findings = [error("sbatch_refused"), *inspection.findings]
            return self._refuse(file, findings, str(refusal))
        except SlurmNotReached as trouble:
            return self._outcome("not_reached", reason=str(trouble))
        except SubmissionDoubtful as trouble:
            return self._outcome("doubtful", reason=str(trouble))
        return self._put_away(file, inspection, accepted.job_id, time.time(), accepted.messages)

    def _submission(self, file: JobFilePath, inspection: Inspection) -> Submission:
        options = inspection.job_file.options
        spool = self._config.agent.spool_dir
        return Submission(
            script=inspection.content,
            tag=file.tag,
            comment=options.comment or "",
            file=names.shown(file.name),
            name=None if options.name is not None else names.job_name(file.name),
            directory=None if options.chdir is not None else self._owner.home,
            stdout=job_spool.nas_output_pattern(spool, "stdout"),
            stderr=job_spool.nas_output_pattern(spool, "stderr"),
        )

    def _complete(self, file: JobFilePath, job: FoundJob) -> Outcome:
        return self._put_away(file, self._inspect(file), job.job_id, job.submitted, "")

    def _put_away(
        self,
        file: JobFilePath,
        inspection: Inspection,
        job_id: int,
        submitted: float | None,
        messages: str,
    ) -> Outcome:
        warnings = [finding for finding in inspection.findings if finding.severity == "warning"]
        receipt = Receipt(
            job_id=job_id,
            name=file.name,
            owner=self._owner.name,
            tag=file.tag,
            digest=inspection.digest,
            submitted=submitted,
            results=self._nas.results,
            warnings=warnings,
            sbatch=messages,
        )
        text = receipt_text(receipt, self._config.messages.languages)
        name = f"{job_id}_{file.name}"
        facts: dict[str, Any] = {"job_id": job_id, "submitted": submitted}
        try:
            filed_as = filing.put_away(
                file.path, self._nas.processed, name, names.RECEIPT_SUFFIX, text, file.tag
            )
        except OSError as fault:
            return self._outcome("accepted", reason=as_user.describe(fault), **facts)
        codes = [finding.code for finding in warnings]
        return self._outcome("submitted", filed_as=filed_as, codes=codes, **facts)

    def _refuse(self, file: JobFilePath, findings: Sequence[Finding], sbatch: str = "") -> Outcome:
        refusal = Refusal(
            name=file.name,
            owner=self._owner.name,
            tag=file.tag,
            findings=findings,
            sbatch=sbatch,
            submit=str(self._nas.submit),
        )
        text = error_text(refusal, self._config.messages.languages)
        filed_as = filing.put_away(
            file.path, self._nas.failed, file.name, names.ERROR_SUFFIX, text, file.tag
        )
        codes = [finding.code for finding in findings if finding.severity == "error"]
        return self._outcome("refused", filed_as=filed_as, codes=codes)


def _sync(folder: Path) -> None:
    try:
        durable.sync_directory(folder)
    except OSError as fault:
        if fault.errno not in _NO_SUCH_SYNC:
            raise


def limits_of(config: Config) -> Limits:
    """Return what the site allows in a job file."""
    return Limits(config.watcher.max_job_file_kib * 1024, config.agent.allowed_runtimes)
