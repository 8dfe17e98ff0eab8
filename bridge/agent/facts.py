"""What the summary says about a finished run.

Slurm's word comes first; the Epilog's variables speak where Slurm is silent.
"""

import os
import re
import time
from typing import Any

from bridge.agent.job import JobRun
from bridge.errors import PermanentError, TemporaryError
from bridge.slurm.jobs import Job, SlurmControl, kib, seconds

_COMPLETING_S = 30.0
_STEP_S = 0.1
_REQUEUED = {
    "JobState": "REQUEUED",
    "Reason": "the job was requeued; its next run's results get a folder of their own",
    "StartTime": "",
}


def identity(job: JobRun) -> dict[str, Any]:
    """Return what names the run: enough to find or make its result folder."""
    return {"job_id": job.run.job_id, "restart": job.run.restart, "tag": _asked(job, "tag")}


def collect(job: JobRun, slurm: SlurmControl) -> dict[str, Any]:
    """Ask Slurm once the run is over; raises `TemporaryError` while Slurm cannot be asked."""
    told = _when_over(job, slurm)
    fields = dict(told.fields) if told else _from_accounting(job, slurm)
    variables = {**job.request.variables, **job.state.finish}
    if told is not None and _runs_again(job, told):
        fields = {**fields, **_REQUEUED, "EndTime": ""}
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
        "reason": _reason(job, fields),
        "exit_code": exit_code,
        "signal": exit_signal,
        "submitted": _epoch(fields.get("SubmitTime", "")),
        "started": started,
        "ended": ended,
        "elapsed_s": ended - started if started and ended else None,
        "image": _asked(job, "image"),
        "runtime": job.state.runtime,
        "sandbox": job.state.sandbox_name,
        "workdir": _asked(job, "workdir") or fields.get("WorkDir", ""),
        "script": _asked(job, "script"),
        "warnings": _warnings(job),
        **_usage(job, slurm),
        **({} if job.request.is_nas_job else _own_logs(fields)),
    }


def _own_logs(fields: dict[str, str]) -> dict[str, str]:
    return {"stdout_path": fields.get("StdOut", ""), "stderr_path": fields.get("StdErr", "")}


def _usage(job: JobRun, slurm: SlurmControl) -> dict[str, Any]:
    """Return what slurmdbd has of the run by now; it may lag behind, and that is no fault."""
    try:
        record = slurm.accounted(job.run.job_id)
    except TemporaryError:
        return {}
    rss_kib = kib(record.get("MaxRSS", ""))
    return {"max_rss_kib": rss_kib or None, "cpu_s": seconds(record.get("TotalCPU", ""))}


def _runs_again(job: JobRun, told: Job) -> bool:
    """Whether Slurm speaks of a later run of the job already."""
    restarts = told.fields.get("Restarts", "0")
    is_later = restarts.isdigit() and int(restarts) > job.run.restart
    return is_later or not (told.is_over or told.state == "COMPLETING")


def _when_over(job: JobRun, slurm: SlurmControl) -> Job | None:
    """Return the job once its nodes are free: until then Slurm hides how it ended."""
    deadline = time.monotonic() + _COMPLETING_S
    while True:
        told = slurm.job(job.run.job_id)
        if told is None or told.state != "COMPLETING" or time.monotonic() >= deadline:
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
        "Submit": "SubmitTime",
        "Start": "StartTime",
        "End": "EndTime",
    }
    found = {names[key]: value for key, value in record.items() if key in names}
    if "JobState" in found:
        found["JobState"] = found["JobState"].partition(" ")[0]
    return found


def _ending(variables: dict[str, str], fields: dict[str, str]) -> tuple[int | None, int | None]:
    """Return exit code and signal, from the Epilog's wait status or Slurm's "code:signal"."""
    if fields.get("Reason") == "JobLaunchFailure":
        return None, None  # Slurm's own 0:53 is no signal of the script's
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


def _reason(job: JobRun, fields: dict[str, str]) -> str:
    if job.state.reason:
        return job.state.reason
    reason = fields.get("Reason", "")
    return "" if reason == "None" else reason


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
