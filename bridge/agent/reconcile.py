"""Compare records, sandboxes and Slurm's jobs, and end what has no job any more.

Done at the agent's start and then now and then. A run is over only when Slurm said so;
"could not ask" changes nothing. The records are read before Slurm is asked, so a job that
begins in between is never taken for gone.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from bridge.agent.job import JobRun
from bridge.agent.node_health import NodeHealth
from bridge.agent.runtimes import Runtimes
from bridge.agent.sandboxes import Sandboxes
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes.sandbox import Runtime
from bridge.slurm.jobs import SlurmControl

_NAME = re.compile(r"slurm-job-(\d+)(?:-|$)")


class _Round:
    """One comparison: what of it cannot be done is logged, and keeps nothing else back."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self.is_complete = True

    def do(self, work: Callable[[], None], **facts: Any) -> bool:
        """Do one part; `facts` name in the log what it is about. Returns whether it is done."""
        try:
            work()
            return True
        except TemporaryError as error:
            self.log.warning("reconcile_delayed", **facts, reason=str(error))
        except NodeError as error:
            self.log.error("reconcile_failed", **facts, reason=str(error))
        except Exception as error:  # a bug about one run; the others must be looked at
            self.log.error("reconcile_crashed", **facts, exc_info=error)
        self.is_complete = False
        return False


def reconcile(sandboxes: Sandboxes, slurm: SlurmControl, node: str, log: Any) -> bool:
    """Compare once; returns whether all could be asked, and done."""
    runs = _unfinished(sandboxes)
    this = _Round(log)
    this.do(lambda: _compare(this, sandboxes, slurm, node, runs))
    this.do(lambda: _remove_strays(this, sandboxes, slurm))
    # A Kubernetes that is away keeps no node from being resumed.
    this.do(lambda: _resume_if_sound(sandboxes.health, slurm, node, log))
    this.do(sandboxes.gang.remind)
    this.do(sandboxes.runs.remove_remains)
    return this.is_complete


def _unfinished(sandboxes: Sandboxes) -> list[JobRun]:
    return [job for job in sandboxes.runs.all() if job.state.name != "finished"]


def _compare(
    this: _Round, sandboxes: Sandboxes, slurm: SlurmControl, node: str, runs: list[JobRun]
) -> None:
    found = _found(this, sandboxes.runtimes)
    jobs = slurm.jobs_on(node)
    _end_lost_runs(this, sandboxes, runs, jobs)
    owned = {job.state.sandbox_name for job in (*runs, *_unfinished(sandboxes))}
    _remove_orphans(this, [(runtime, name) for runtime, name in found if name not in owned], jobs)


def _found(this: _Round, runtimes: Runtimes) -> list[tuple[Runtime, str]]:
    """Return the sandboxes that are there, of each runtime that could be asked."""
    found: list[tuple[Runtime, str]] = []

    def look(runtime: str) -> None:
        found.extend((runtimes[runtime], name) for name in sorted(runtimes.names(runtime)))

    for runtime in runtimes.known():
        this.do(partial(look, runtime), runtime=runtime)
    return found


def _resume_if_sound(health: NodeHealth, slurm: SlurmControl, node: str, log: Any) -> None:
    """Resume a node that hooks or agent drained for what is over; others' drains are theirs."""
    if health.is_resting:
        return
    if slurm.is_drained_by_us(node):
        try:
            health.check()
        except NodeError as error:
            health.found_fault()
            log.warning("node_still_at_fault", node=node, reason=str(error))
            return
        if slurm.resume(node):
            log.info("node_resumed", node=node)
    health.settle()


def _end_lost_runs(this: _Round, sandboxes: Sandboxes, runs: list[JobRun], jobs: set[int]) -> None:
    for job in runs:
        restarted = job is not sandboxes.runs.latest(job.run.job_id)
        if job.run.job_id in jobs and not restarted:
            continue
        this.log.info("run_lost", **job.labels)
        told = job.state.finish or dict(job.request.variables)
        this.do(partial(sandboxes.end, job, told), **job.labels)


def _remove_orphans(this: _Round, found: list[tuple[Runtime, str]], jobs: set[int]) -> None:
    """Remove the sandboxes that no run owns and whose jobs are gone."""
    for runtime, name in found:
        match = _NAME.match(name)
        if not match or int(match[1]) in jobs:
            continue
        facts: dict[str, Any] = {"job_id": int(match[1]), "sandbox": name}
        if this.do(partial(runtime.remove, name, None), **facts):
            this.log.info("orphan_removed", **facts)


def _remove_strays(this: _Round, sandboxes: Sandboxes, slurm: SlurmControl) -> None:
    """Remove what a dead node's agent left, once Slurm said that its job is over."""
    for runtime, name in sandboxes.runtimes.strays():
        match = _NAME.match(name)
        job = slurm.job(int(match[1])) if match else None
        if match and (job is None or job.is_over):
            facts: dict[str, Any] = {"job_id": int(match[1]), "sandbox": name}
            if this.do(partial(runtime.remove_stray, name), **facts):
                this.log.info("stray_removed", **facts)
