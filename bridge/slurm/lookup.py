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

_RETRY_S = 10.0
_DAY_S = 86400
_ALL_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"
_ROW = re.compile(r"(\d+)[^|]*\|(\d*)[^|]*\|(.*)")
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
        arguments = ("--noheader", "--all", "--states=all", f"--user={uid}", "--format=%F|%V|%k")
        return _tagged(self._ask("squeue", *arguments), tags)

    def _in_accounting(self, uid: int, tags: set[str], since: float) -> dict[str, FoundJob]:
        # Without --state, sacct leaves out jobs that were never eligible: held, then cancelled.
        text = self._ask(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--duplicates",
            f"--user={uid}",
            f"--starttime={_local_time(since - _DAY_S)}",
            f"--endtime={_local_time(time.time() + _DAY_S)}",
            f"--state={_ALL_STATES}",
            "--format=JobID,Submit,Comment",
        )
        return _tagged(text, tags)

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


def _tagged(text: str, tags: set[str]) -> dict[str, FoundJob]:
    """Read "<job>|<epoch>|<comment>" lines; of several jobs with one tag the first counts."""
    found: dict[str, FoundJob] = {}
    for line in text.splitlines():
        row = _ROW.fullmatch(line)
        tag = _tag(row[3]) if row else ""
        if row and tag in tags:
            job = FoundJob(int(row[1]), int(row[2]) if row[2] else None)
            found[tag] = min(job, found.get(tag, job), key=lambda one: one.job_id)
    return found


def _tag(comment: str) -> str:
    try:
        asked = request.find(comment)
    except PermanentError:
        return ""
    return asked.tag if asked else ""
