"""Making the sandbox of a run: one thread for each, which tries again as long as that may help.

Nothing here touches the NAS.
"""

import threading
import time
from dataclasses import replace

from bridge.agent import blueprint, folders, rendezvous
from bridge.agent.failures import BUG, Failures, fault_of
from bridge.agent.forge import Forge
from bridge.agent.gang import Gang
from bridge.agent.job import JobRun
from bridge.agent.node_health import NodeHealth
from bridge.agent.runs import Runs
from bridge.agent.runtimes import Runtimes
from bridge.agent.this_node import ThisNode
from bridge.errors import NodeError, PermanentError, TemporaryError
from bridge.runtimes import fittings
from bridge.runtimes.sandbox import Sandbox
from bridge.slurm.jobs import NodeShare

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_LOOPBACK = "127.0.0.1"


class Maker:
    """Brings runs from `accepted` to `ready`, or to what `failures` makes of them."""

    def __init__(
        self,
        node: ThisNode,
        forge: Forge,
        runs: Runs,
        runtimes: Runtimes,
        gang: Gang,
        health: NodeHealth,
        failures: Failures,
    ) -> None:
        self._node = node
        self._log = node.log
        self._forge = forge
        self._runs = runs
        self._runtimes = runtimes
        self._gang = gang
        self._health = health
        self._failures = failures
        self._ports = threading.Lock()

    def begin(self, job: JobRun) -> None:
        """Make the sandbox of an accepted run, in a thread."""
        threading.Thread(
            target=self._make, args=(job,), name=f"make-{job.run}", daemon=True
        ).start()

    def _make(self, job: JobRun) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not job.cancelled.is_set():
            try:
                self._try(job)
                return
            except NodeError as error:
                if not job.cancelled.is_set():
                    self._failures.blame_node(job, error)
                return
            except TemporaryError as error:
                if time.time() > job.give_up_at:
                    self._failures.give_up(job, error)
                    return
                job.say(f"{error.message}; trying again")
                self._log.warning("sandbox_delayed", **job.labels, reason=str(error))
            except PermanentError as error:
                self._failures.fail(job, "user", str(error))
                return
            except Exception:
                self._failures.fail(job, "sbridge", BUG)
                raise  # logged as the bug that it is
            job.cancelled.wait(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    def _try(self, job: JobRun) -> None:
        try:
            self._make_once(job)
        except OSError as error:
            raise fault_of(error) from error

    def _make_once(self, job: JobRun) -> None:
        started = time.monotonic()
        job.make_durable()
        config = self._node.config
        name = blueprint.runtime_of(job, config)
        if name == "host":
            job.advance(name="ready", runtime=name)
            self._gang.tell(job)
            return
        share = self._share_of(job)
        spool = self._node.slurmd_spool
        spec = blueprint.specification(job, config, self._node.name, share, spool)
        job.folders = job.folders or spec.folders
        spec = replace(spec, folders=job.folders)
        with job.lifecycle:
            if job.cancelled.is_set():
                return
            job.advance(runtime=name, sandbox_name=spec.name)
            blueprint.introduce(job)
            entry = self._runtimes[name].start(spec, job.spool, job)
            if isinstance(entry, Sandbox):
                folders.put_in_place(self._forge, entry, spec)
                self._fit(entry, job)
            self._reserve_rendezvous(job)
            made = entry if isinstance(entry, Sandbox) else None
            job.advance(name="ready", sandbox=made, **job.start_so_far())
            self._gang.tell(job)
        self._health.made_sandbox()
        self._log.info(
            "sandbox_ready",
            **job.labels,
            image=spec.image,
            cgroup=made.cgroup if made else "",
            duration_s=round(time.monotonic() - started, 3),
        )

    def _share_of(self, job: JobRun) -> NodeShare:
        told = self._node.slurm.job(job.run.job_id)
        share = told.share_of(self._node.name) if told else None
        if share is None:
            raise TemporaryError(f"Slurm does not tell what job {job.run.job_id} has on this node")
        return share

    def _fit(self, sandbox: Sandbox, job: JobRun) -> None:
        has_nodes_name = self._node.config.sandbox.host_network
        for failure in fittings.fit(sandbox, has_nodes_name=has_nodes_name):
            self._log.warning("sandbox_not_fitted", **job.labels, reason=failure)

    def _reserve_rendezvous(self, job: JobRun) -> None:
        """Choose on the first node where the job's tasks meet."""
        if job.request.batch_host != self._node.name or job.state.master_port:
            return
        with self._ports:
            taken = {other.state.master_port for other in self._runs.all()}
            job.state.master_port = rendezvous.free_port(job.run.job_id, taken)
        if not job.request.is_gang:
            job.state.master_addr = _LOOPBACK
