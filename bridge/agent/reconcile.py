"""Compare records, sandboxes and Slurm's jobs, and end what has no job any more.

Done at the agent's start and then now and then. A run is over only when Slurm said so;
"could not ask" changes nothing. The records are read before Slurm is asked, so a job that
begins in between is never taken for gone.
"""

import re
from collections.abc import Callable
from typing import Any

from bridge.agent.job import JobRun
from bridge.agent.node_health import NodeHealth
from bridge.agent.sandboxes import Sandboxes
from bridge.errors import NodeError, TemporaryError
from bridge.slurm.jobs import SlurmControl

_NAME = re.compile(r"slurm-job-(\d+)(?:-|$)")


def reconcile(sandboxes: Sandboxes, slurm: SlurmControl, node: str, log: Any) -> bool:
    """Compare once; returns whether Slurm and the runtimes could be asked."""
    runs = [job for job in sandboxes.runs.all() if job.state.name != "finished"]
    # Each on its own: a Kubernetes that is away keeps no node from being resumed.
    rounds: tuple[Callable[[], None], ...] = (
        lambda: _compare(sandboxes, slurm, node, runs, log),
        lambda: _remove_strays(sandboxes, slurm, log),
        lambda: _resume_if_sound(sandboxes.health, slurm, node, log),
        sandboxes.gang.remind,
        sandboxes.runs.remove_remains,
    )
    done = [_done(each, log) for each in rounds]
    return all(done)


def _done(work: Callable[[], None], log: Any) -> bool:
    """Whether what was to be asked could be asked; what could not is logged."""
    try:
        work()
    except TemporaryError as error:
        log.warning("reconcile_delayed", reason=str(error))
        return False
    except NodeError as error:
        log.error("reconcile_failed", reason=str(error))
        return False
    return True


def _compare(
    sandboxes: Sandboxes, slurm: SlurmControl, node: str, runs: list[JobRun], log: Any
) -> None:
    names = sandboxes.runtimes.names()
    jobs = slurm.jobs_on(node)
    _end_lost_runs(sandboxes, runs, jobs, log)
    _remove_orphans(sandboxes, names, jobs, log)


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


def _end_lost_runs(sandboxes: Sandboxes, runs: list[JobRun], jobs: set[int], log: Any) -> None:
    for job in runs:
        restarted = job is not sandboxes.runs.latest(job.run.job_id)
        if job.run.job_id in jobs and not restarted:
            continue
        log.info("run_lost", run=str(job.run))
        sandboxes.end(job, dict(job.request.variables))


def _remove_orphans(sandboxes: Sandboxes, names: set[str], jobs: set[int], log: Any) -> None:
    owned = {job.state.sandbox_name for job in sandboxes.runs.all() if job.state.name != "finished"}
    for name in names - owned:
        match = _NAME.match(name)
        if match and int(match[1]) not in jobs:
            sandboxes.runtimes.remove_orphan(name)
            log.info("orphan_removed", sandbox=name)


def _remove_strays(sandboxes: Sandboxes, slurm: SlurmControl, log: Any) -> None:
    """Remove what a dead node's agent left, once Slurm said that its job is over."""
    for runtime, name in sandboxes.runtimes.strays():
        match = _NAME.match(name)
        job = slurm.job(int(match[1])) if match else None
        if match and (job is None or job.is_over):
            runtime.remove_stray(name)
            log.info("stray_removed", sandbox=name)
