"""Ask Slurm whether a submission became a job, by the tag in its comment.

slurmctld (squeue) knows jobs until some minutes after their end, slurmdbd (sacct) for
ever. "Not found" is said only when both answered and slurmctld has told slurmdbd all it
had to tell; anything less raises `TemporaryError`: could not ask.

Only jobs of the file's owner count, so that nobody can answer for somebody else.
"""

import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from bridge import command, request
from bridge.config import Slurm
from bridge.errors import CommandError, PermanentError, TemporaryError
from bridge.slurm import table

_RETRY_S = 10.0
_DAY_S = 86400
_ALL_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"
_JOB_ID = re.compile(r"\d+")
_UNSENT = re.compile(r"^DBD Agent queue size:\s*(\d+)", re.MULTILINE)
_STORE_FLAGS = re.compile(r"^AccountingStoreFlags\s*=\s*(.*)", re.MULTILINE)


@dataclass(frozen=True)
class FoundJob:
    """The job that a submission became; `submitted` in seconds since the epoch, or None."""

    job_id: int
    submitted: int | None


class SubmissionLookup:
    """Slurm's two memories of jobs."""

    def __init__(self, settings: Slurm) -> None:
        self._settings = settings

    def find(self, uid: int, tags: Collection[str], since: float) -> dict[str, FoundJob]:
        """Return the jobs of user `uid` that carry one of `tags`.

        A tag that is missing in the answer belongs to no job. Only jobs that were submitted
        after `since` (seconds since the epoch, less a day for clocks that differ) need be
        found. Raises `TemporaryError` when Slurm could not be asked.
        """
        wanted = set(tags)
        found = self._in_controller(uid, wanted)
        if wanted - found.keys():
            self._check_accounting()
            found = self._in_accounting(uid, wanted, since) | found
        return found

    def _in_controller(self, uid: int, tags: set[str]) -> dict[str, FoundJob]:
        """Ask slurmctld; %F is an array's own job id, %V the time of submission."""
        mark = table.new_mark()
        wanted = mark.join(("--format=%F", "%V", "%k", ""))
        text = self._ask("squeue", "--noheader", "--all", "--states=all", f"--user={uid}", wanted)
        return _tagged(text, mark, tags)

    def _in_accounting(self, uid: int, tags: set[str], since: float) -> dict[str, FoundJob]:
        mark = table.new_mark()
        # Without --state, sacct leaves out jobs that were never eligible: held, then cancelled.
        text = self._ask(
            "sacct",
            "--noheader",
            "--parsable",
            f"--delimiter={mark}",
            "--allocations",
            "--duplicates",
            f"--user={uid}",
            f"--starttime={_local_time(since - _DAY_S)}",
            f"--endtime={_local_time(time.time() + _DAY_S)}",
            f"--state={_ALL_STATES}",
            "--format=JobID,Submit,Comment",
        )
        return _tagged(text, mark, tags)

    def _check_accounting(self) -> None:
        """Raise `TemporaryError` unless sacct is going to know every job and its comment."""
        flags = _STORE_FLAGS.search(self._ask("scontrol", "show", "config"))
        if not flags or "job_comment" not in flags[1]:
            raise TemporaryError(
                "slurmdbd keeps no comments, so sacct cannot tell which submissions became jobs",
                hint="Set AccountingStoreFlags=job_comment in slurm.conf.",
                retry_after_s=_RETRY_S,
            )
        unsent = _UNSENT.search(self._ask("sdiag"))
        if unsent and int(unsent[1]) > 0:
            raise TemporaryError(
                f"slurmctld has {unsent[1]} messages for slurmdbd that are not delivered yet",
                retry_after_s=_RETRY_S,
            )

    def _ask(self, name: str, *arguments: str) -> str:
        conf = self._settings.conf or os.environ.get("SLURM_CONF", "")
        environment = {"SLURM_TIME_FORMAT": "%s"} | ({"SLURM_CONF": conf} if conf else {})
        argv = [str(self._settings.bin_dir / name), *arguments]
        try:
            completed = command.run(
                argv, timeout_s=self._settings.timeout_s, environment=environment
            )
        except CommandError as error:
            reason = f"Slurm could not be asked: {error}"
            raise TemporaryError(reason, retry_after_s=_RETRY_S) from error
        return completed.stdout


def _local_time(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))


def _tagged(text: str, mark: str, tags: set[str]) -> dict[str, FoundJob]:
    """Read the columns job, epoch, comment; of several jobs with one tag the first counts.

    Raises `TemporaryError` when the text is no such table: "cannot tell" is not "no".
    """
    found: dict[str, FoundJob] = {}
    for job_id, submitted, comment in table.rows(text, mark, 3):
        tag = _tag(comment)
        if tag in tags:
            job = FoundJob(_number(job_id), int(submitted) if submitted.isdigit() else None)
            found[tag] = min(job, found.get(tag, job), key=lambda one: one.job_id)
    return found


def _number(job_id: str) -> int:
    """Read `12`, or an array's `12_3` or `12_[1-3]`."""
    match = _JOB_ID.match(job_id)
    if not match:
        raise TemporaryError(f"Slurm names a job {job_id!r}, which is no number")
    return int(match[0])


def _tag(comment: str) -> str:
    try:
        asked = request.find(comment)
    except PermanentError:
        return ""
    return asked.tag if asked else ""
