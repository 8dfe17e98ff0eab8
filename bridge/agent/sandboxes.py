"""The life of every run on this node, from the Prolog's word to the freed node.

1. recorded   `runs.py`
2. made       `maker.py`, in a runtime of `runtimes.py`
3. gathered   `gathering.py`, where the job has other nodes
4. failed     `failures.py`, when one of these cannot be
5. ended      here

Nothing here touches the NAS.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bridge.agent import blueprint, delivery
from bridge.agent.failures import Failures
from bridge.agent.forge import Forge
from bridge.agent.gang import Gang
from bridge.agent.gathering import Gathering
from bridge.agent.job import NOBODY_TOLD, JobRun, Request
from bridge.agent.maker import Maker
from bridge.agent.node_health import NodeHealth
from bridge.agent.runs import Runs
from bridge.agent.runtimes import Runtimes
from bridge.agent.this_node import ThisNode
from bridge.config import Config
from bridge.errors import NodeError
from bridge.job_spool import RunId
from bridge.request import find
from bridge.runtimes.sandbox import Runtime, Sandbox
from bridge.slurm.jobs import SlurmControl


class Sandboxes:
    """The sandboxes of this node. `on_finished` is called with each run whose sandbox is gone."""

    def __init__(
        self,
        config: Config,
        node: str,
        slurm: SlurmControl,
        forge: Forge,
        log: Any,
        on_finished: Callable[[JobRun], None],
    ) -> None:
        self.node = ThisNode(node, config, slurm, log)
        self._log = log
        self._on_finished = on_finished
        self.runs = Runs(self.node)
        self.runtimes = Runtimes(self.node, self._ended_by_itself)  # which may tell from now on
        self.health = NodeHealth(self.node.spool, self.runtimes.in_use)
        self.gang = Gang(node, slurm, log)
        failures = Failures(self.node, self.gang, self.health)
        self.gathering = Gathering(self.node, self.gang, failures)
        self._maker = Maker(
            self.node, forge, self.runs, self.runtimes, self.gang, self.health, failures
        )

    def _ended_by_itself(self, name: str, why: str) -> None:
        """Note why the cluster ended a sandbox; the kernel ends what is in it."""
        for job in self.runs.all():
            if job.state.sandbox_name != name or job.state.name != "ready":
                continue
            if not job.cancelled.is_set() and not job.lost:
                self._log.warning("sandbox_lost", **job.labels, reason=why)
                job.lose(why)

    def resume_work(self) -> None:
        """Go on where an earlier agent stopped: make what was being made, publish what was over."""
        for job in self.runs.all():
            if job.state.name == "accepted":
                self._maker.begin(job)
            elif job.state.name == "finished":
                if delivery.is_due(job, self.node.name):
                    self.gang.tell(job)
                self._on_finished(job)
            else:
                self.gang.tell(job)
        self.gang.start()

    def prepare(self, variables: dict[str, str]) -> None:
        """Record the job durably and begin to make its sandbox; the same run twice is fine."""
        request = Request.of(variables)
        job, is_new = self.runs.record(request)
        if is_new:
            self._log.info("job_accepted", run=str(job.run), user=variables.get("SLURM_JOB_USER"))
            self._maker.begin(job)

    def recall(self, job_id: int, uid: int) -> JobRun | None:
        """Prepare a job of `uid` that runs here and whose Prolog never spoke, if it asks for it.

        Raises `TemporaryError` when Slurm could not be asked.
        """
        variables = self.node.slurm.prolog_variables(job_id, self.node.name)
        if variables is None or variables["SLURM_JOB_UID"] != str(uid):
            return None
        if not find(variables["SLURM_JOB_EXTRA"], variables["SLURM_JOB_COMMENT"]):
            return None
        self._log.info("job_recalled", job_id=job_id)
        self.prepare(variables)
        return self.runs.latest(job_id)

    def finish(self, variables: dict[str, str]) -> None:
        """Free this node of the job; returns when its sandbox is gone.

        Ends every run of the job up to the given one: slurmctld may count a requeue before
        or after it runs the Epilog. Raises `NodeError` when a sandbox stays, or its end cannot
        be recorded.
        """
        request = Request.of(variables)
        runs = self.runs.of_job(request.run.job_id)
        self._remove_unrecorded(request, {job.run for job in runs})
        due = [job for job in runs if job.run <= request.run]
        if not runs and request.is_nas_job:
            due = [self.runs.record(request)[0]]  # Epilog without Prolog: results are still due
        for job in due:
            self.end(job, variables)

    def _remove_unrecorded(self, request: Request, recorded: set[RunId]) -> None:
        """Remove the sandbox of a run whose record could not be read; there rarely is one."""
        if not request.has_image or request.run in recorded:
            return
        for restart in {request.run.restart, max(request.run.restart - 1, 0)}:  # see `finish`
            run = RunId(request.run.job_id, restart)
            if run in recorded:
                continue
            name = blueprint.sandbox_name(replace(request, run=run), self.node.name)
            self._log.info("run_unrecorded", run=str(run), sandbox=name)
            for runtime in self.runtimes.in_use:
                _free(runtime, name, None)

    def end(self, job: JobRun, variables: dict[str, str]) -> None:
        """Remove the run's sandbox and hand the run to publication; twice is fine.

        Raises `NodeError` when the sandbox stays or its end cannot be recorded.
        """
        job.cancelled.set()
        with job.lifecycle:
            if job.state.name == "finished":
                return
            started = time.monotonic()
            if not job.is_ending and job.is_lost():
                job.warn(f"its sandbox ended before the job: {job.lost or NOBODY_TOLD}")
            job.is_ending = True
            self._remove(job)
            _close(job, variables)
        if not delivery.is_due(job, self.node.name):
            self.gang.withdraw(job.run)
        duration_s = round(time.monotonic() - started, 3)
        self._log.info("sandbox_removed", **job.labels, duration_s=duration_s)
        self._on_finished(job)

    def _remove(self, job: JobRun) -> None:
        name = job.state.sandbox_name
        if not name:
            return
        try:
            runtime = self.runtimes[job.state.runtime]
        except NodeError as error:
            raise NodeError(f"sandbox {name} cannot be removed: {error.message}") from error
        _free(runtime, name, job.state.sandbox)


def _free(runtime: Runtime, name: str, sandbox: Sandbox | None) -> None:
    try:
        runtime.remove(name, sandbox)
    except OSError as error:
        raise NodeError(f"sandbox {name} cannot be removed: {error}") from error


def _close(job: JobRun, variables: dict[str, str]) -> None:
    """Record that the run is over; raises `NodeError` when the disk does not take it.

    Its results are published once it has: `reconcile` ends the run again until then.
    """
    try:
        job.advance(name="finished", finish=variables, sandbox=None)
    except OSError as error:
        job.note(finish=variables)  # what the Epilog said is not said again
        raise NodeError(f"{job.spool.root} cannot be written: {error.strerror}") from error
