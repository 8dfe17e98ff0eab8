"""What the summary says about a finished run.

Slurm's word comes first; the Epilog's variables speak where Slurm is silent.
"""

import os
import re
import signal
import time
from typing import Any

from bridge.agent import usage
from bridge.agent.job import JobRun
from bridge.errors import PermanentError, TemporaryError
from bridge.slurm.jobs import Job, SlurmControl, kib, seconds

_COMPLETING_S = 30.0
_STEP_S = 0.1
# What Slurm tells of a later run is not this run's.
_REQUEUED = {
    "JobState": "REQUEUED",
    "Reason": "the job was requeued",
    "ExitCode": "",
    "StartTime": "",
    "EndTime": "",
}
# Slurm 22.05 gives this reason to scripts that it could not start, with exit code 0:53, and to
# all that a signal ended.
_NOT_STARTED = "JobLaunchFailure"
_NOT_STARTED_MARK = 53


def identity(job: JobRun) -> dict[str, Any]:
    """Return what names the run: enough to find or make its result folder."""
    return {"job_id": job.run.job_id, "restart": job.run.restart, "tag": _asked(job, "tag")}


def collect(job: JobRun, slurm: SlurmControl) -> dict[str, Any]:
    """Ask Slurm once the run is over; raises `TemporaryError` while Slurm cannot be asked."""
    fields = _told(job, slurm)
    variables = {**job.request.variables, **job.state.finish}
    exit_code, exit_signal = _ending(variables, fields)
    started, ended = _epoch(fields.get("StartTime", "")), _epoch(fields.get("EndTime", ""))
    return {
        **identity(job),
        "name": fields.get("JobName", ""),
        "job_file": _asked(job, "file"),
        "user": variables.get("SLURM_JOB_USER", ""),
        "account": variables.get("SLURM_JOB_ACCOUNT", ""),
        "partition": variables.get("SLURM_JOB_PARTITION", ""),
        "qos": fields.get("QOS", ""),
        "nodes": job.request.nodes,
        "state": fields.get("JobState") or _state_from(exit_code, exit_signal),
        "reason": _reason(job, fields, exit_signal),
        "exit_code": exit_code,
        "signal": exit_signal,
        "submitted": _epoch(fields.get("SubmitTime", "")),
        "started": started,
        "ended": ended,
        "elapsed_s": ended - started if started and ended else None,
        "image": _asked(job, "image"),
        "runtime": job.state.runtime,
        "sandbox": job.state.sandbox_name,
        "sandbox_start_s": job.state.start_s or None,
        "sandbox_start": job.state.start_words,
        "workdir": _asked(job, "workdir") or fields.get("WorkDir", ""),
        "script": _asked(job, "script"),
        "warnings": _warnings(job),
        "is_further_part": fields.get("HetJobOffset", "0") not in ("", "0", "N/A"),
        **({} if fields.get("JobState") == "REQUEUED" else _usage(job, slurm)),
        **({} if job.request.is_nas_job else _own_logs(fields)),
    }


def _own_logs(fields: dict[str, str]) -> dict[str, str]:
    return {"stdout_path": fields.get("StdOut", ""), "stderr_path": fields.get("StdErr", "")}


def _usage(job: JobRun, slurm: SlurmControl) -> dict[str, Any]:
    """Return what slurmdbd has of the run by now, or what was seen here if that is more.

    slurmdbd may lag behind, and that is no fault.
    """
    try:
        record = slurm.accounted(job.run.job_id)
    except TemporaryError:
        record = {}
    seen = usage.read(job.spool.usage)
    rss_kib = max(kib(record.get("MaxRSS", "")), seen.max_rss_kib)
    cpu_s = seconds(record.get("TotalCPU", ""))
    if seen.cpu_s:
        cpu_s = max(cpu_s or 0, seen.cpu_s)
    return {"max_rss_kib": rss_kib or None, "cpu_s": cpu_s}


def _told(job: JobRun, slurm: SlurmControl) -> dict[str, str]:
    """Return what Slurm tells of this very run; raises `TemporaryError` while it is not over.

    A slurmctld that was killed may, when it is back, call a run running that has ended.
    """
    told = _when_over(job, slurm)
    if told is None:
        return _from_accounting(job, slurm)
    if _is_later(job, told):
        return {**told.fields, **_REQUEUED}
    if told.is_over:
        return dict(told.fields)
    found = _from_accounting(job, slurm)
    state = found.get("JobState", "")
    if state == "REQUEUED":
        return {**told.fields, **_REQUEUED}
    if not state or not Job(told.job_id, found).is_over:
        text = f"job {told.job_id} is {told.state}, although this run of it ended on its node"
        raise TemporaryError(f"Slurm says that {text}")
    return {**told.fields, "Reason": "", "ExitCode": "", **found}


def _is_later(job: JobRun, told: Job) -> bool:
    """Whether Slurm speaks of a later run of the job already."""
    restarts = told.fields.get("Restarts", "0")
    return restarts.isdigit() and int(restarts) > job.run.restart


def _when_over(job: JobRun, slurm: SlurmControl) -> Job | None:
    """Return the job once its nodes are free: until then Slurm hides how it ended."""
    deadline = time.monotonic() + _COMPLETING_S
    while True:
        told = slurm.job(job.run.job_id)
        is_settled = told is None or told.state != "COMPLETING" or _is_later(job, told)
        if is_settled or time.monotonic() >= deadline:
            return told
        time.sleep(_STEP_S)


def _from_accounting(job: JobRun, slurm: SlurmControl) -> dict[str, str]:
    """Return slurmdbd's record under slurmctld's names; nothing when it has none either."""
    try:
        record = slurm.accounted(job.run.job_id)
    except TemporaryError:
        return {}
    names = {
        "JobName": "JobName",
        "QOS": "QOS",
        "State": "JobState",
        "ExitCode": "ExitCode",
        "Submit": "SubmitTime",
        "Start": "StartTime",
        "End": "EndTime",
    }
    found = {names[key]: value for key, value in record.items() if key in names}
    if "JobState" in found:
        found["JobState"] = found["JobState"].partition(" ")[0]
    if found.get("JobState") != "COMPLETED" and not re.match("0:[1-9]", found.get("ExitCode", "")):
        found.pop("ExitCode", None)  # sacct takes 128 from larger exit codes
    return found


def _ending(variables: dict[str, str], fields: dict[str, str]) -> tuple[int | None, int | None]:
    """Return the script's exit code and signal, None for both where Slurm has marks of its own."""
    if fields.get("JobState") == "REQUEUED":
        return None, None  # the Epilog says 0 of a run that did not end by itself
    exit_code, number = _wait_status(variables, fields)
    is_started = fields.get("Reason") != _NOT_STARTED or number != _NOT_STARTED_MARK
    is_signal = number is None or number < signal.NSIG  # 125: memory ran out
    return (exit_code, number) if is_started and is_signal else (None, None)


def _wait_status(
    variables: dict[str, str], fields: dict[str, str]
) -> tuple[int | None, int | None]:
    """Read the Epilog's wait status, or Slurm's "code:signal"."""
    status = variables.get("SLURM_JOB_EXIT_CODE", "")
    if status.isdigit():
        value = int(status)
        if os.WIFSIGNALED(value):
            return 0, os.WTERMSIG(value)
        return (value >> 8) & 0xFF, 0
    match = re.fullmatch(r"(\d+):(\d+)", fields.get("ExitCode", ""))
    return (int(match[1]), int(match[2])) if match else (None, None)


def _state_from(exit_code: int | None, exit_signal: int | None) -> str:
    if exit_code is None:
        return "UNKNOWN"
    return "FAILED" if exit_code or exit_signal else "COMPLETED"


def _reason(job: JobRun, fields: dict[str, str], exit_signal: int | None) -> str:
    if job.state.reason:
        return job.state.reason
    reason = fields.get("Reason", "")
    return "" if reason == "None" or (reason == _NOT_STARTED and exit_signal) else reason


def _asked(job: JobRun, name: str) -> str:
    try:
        return str(getattr(job.request.asked, name))
    except PermanentError:
        return ""  # the request cannot be read


def _warnings(job: JobRun) -> list[str]:
    try:
        text = job.spool.warnings.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()


def _epoch(text: str) -> int | None:
    """Return the seconds of Slurm's local time `2026-01-31T12:00:00`; None for Unknown."""
    try:
        return int(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")))
    except (ValueError, OverflowError):
        return None
