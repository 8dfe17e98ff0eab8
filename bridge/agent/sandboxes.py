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
from typing import Any

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
from bridge.request import find
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
                self._log.warning("sandbox_lost", run=str(job.run), sandbox=name, reason=why)
                job.lose(why)

    def resume_work(self) -> None:
        """Go on where an earlier agent stopped: make what was being made, publish what was over."""
        for job in self.runs.all():
            if job.state.name == "accepted":
                self._maker.begin(job)
            elif job.state.name == "finished":
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
        or after it runs the Epilog. Raises `NodeError` when a sandbox stays.
        """
        request = Request.of(variables)
        runs = self.runs.of_job(request.run.job_id)
        due = [job for job in runs if job.run <= request.run]
        if not runs and request.is_nas_job:
            due = [self.runs.record(request)[0]]  # Epilog without Prolog: results are still due
        for job in due:
            self.end(job, variables)

    def end(self, job: JobRun, variables: dict[str, str]) -> None:
        """Remove the run's sandbox and hand the run to publication; twice is fine."""
        job.cancelled.set()
        with job.lifecycle:
            if job.state.name == "finished":
                return
            started = time.monotonic()
            if job.is_lost():
                job.warn(f"its sandbox ended before the job: {job.lost or NOBODY_TOLD}")
            if job.state.sandbox_name:
                runtime = self.runtimes[job.state.runtime]
                runtime.remove(job.state.sandbox_name, job.state.sandbox)
            job.advance(name="finished", finish=variables, sandbox=None)
        self.gang.withdraw(job.run)
        self._log.info(
            "sandbox_removed",
            run=str(job.run),
            sandbox=job.state.sandbox_name,
            duration_s=round(time.monotonic() - started, 3),
        )
        self._on_finished(job)
