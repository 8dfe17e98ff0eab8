"""The life of every run on this node, from the Prolog's word to the freed node.

One thread makes one sandbox. Nothing here touches the NAS.
"""

import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from bridge.agent import blueprint, rendezvous
from bridge.agent.gang import Gang
from bridge.agent.job import NOBODY_TOLD, JobRun, Request, State
from bridge.agent.node_health import NodeHealth
from bridge.config import Config
from bridge.errors import NodeError, PermanentError, SbridgeError, TemporaryError
from bridge.job_spool import NodeSpool, RunId
from bridge.request import find
from bridge.runtimes import fittings
from bridge.runtimes.host import HostRuntime
from bridge.runtimes.podman import PodmanRuntime
from bridge.runtimes.sandbox import Runtime, Sandbox
from bridge.slurm.jobs import SlurmControl

_REQUEUE_RETRY_S = 5.0
_LONGEST_BACKOFF_S = 30.0
# Told before it is done: Slurm then ends the steps, which would not be told any more.
_ABOUT_TO_REQUEUE = "; asking Slurm to requeue the job"
_REQUEUE_GRACE_S = 20.0  # for the batch host, which can tell the job why
_LOOPBACK = "127.0.0.1"
_MOVED = "; the job was requeued"
_NOT_MOVED = "; the job may not be requeued, so it fails"
_REMAINS_S = 3600.0
_STRAY_ROUNDS = 2  # of reconciliation: so often its own agent could have removed a sandbox


class Sandboxes:
    """The runs of this node. `on_finished` is called with each run whose sandbox is gone."""

    def __init__(
        self,
        config: Config,
        node: str,
        slurm: SlurmControl,
        log: Any,
        on_finished: Callable[[JobRun], None],
    ) -> None:
        self._config = config
        self._node = node
        self._slurm = slurm
        self._log = log
        self._on_finished = on_finished
        self.gang = Gang(node, slurm, log)
        self._gathering: set[RunId] = set()
        self.spool = NodeSpool.of(config.agent.spool_dir, node)
        self._patience_s = config.agent.sandbox_start_timeout_s
        self._jobs: dict[RunId, JobRun] = {}
        self._lock = threading.Lock()
        self._runtimes = self._make_runtimes()  # which may tell of sandboxes from now on
        self._script_parent: Any = None
        self._in_use = [self._runtimes[name] for name in sorted(self._runtime_names())]
        self.health = NodeHealth(self.spool, self._in_use)

    def _make_runtimes(self) -> dict[str, Runtime]:
        starts = threading.BoundedSemaphore(self._config.agent.parallel_starts)
        runtimes: dict[str, Runtime] = {
            "host": HostRuntime(),
            "podman": PodmanRuntime(self._config.podman, self._node, starts),
        }
        if "kubernetes" in self._runtime_names():
            # Its client takes a second and 50 MiB, which other sites need not spend.
            from bridge.runtimes.kubernetes.runtime import KubernetesRuntime

            runtimes["kubernetes"] = KubernetesRuntime(
                self._config.kubernetes,
                self._node,
                _STRAY_ROUNDS * self._config.agent.reconcile_interval_s,
                self._config.agent.sandbox_start_timeout_s,
                self._log,
                self._ended_by_itself,
            )
        return runtimes

    def _runtime_names(self) -> set[str]:
        return {self._config.agent.runtime, *self._config.agent.allowed_runtimes}

    def _ended_by_itself(self, name: str, why: str) -> None:
        """Note why the cluster ended a sandbox; the kernel ends what is in it."""
        for job in self.all():
            if job.state.sandbox_name != name or job.state.name != "ready":
                continue
            if not job.cancelled.is_set() and not job.lost:
                self._log.warning("sandbox_lost", run=str(job.run), sandbox=name, reason=why)
                job.lose(why)

    def load(self) -> None:
        """Read every run's record from disk; a record that cannot be read is logged and left."""
        for run in self.spool.runs():
            try:
                job = JobRun.load(run, self.spool.job(run), self._patience_s)
            except FileNotFoundError:
                continue  # no run's: `remove_remains`
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._log.error("record_unreadable", run=str(run), reason=str(error))
                continue
            self._jobs[run] = job
        self._log.info("records_loaded", runs=len(self._jobs))

    def remove_remains(self) -> None:
        """Remove folders of runs that are over, made again by a container runtime that had hung.

        It makes what a container is to mount, also for one that nobody wants any more. No run has
        such a folder, and there is no record in it; a trial's folder is younger.
        """
        try:
            runs = self.spool.runs()
        except OSError:
            return  # `health` says why
        for run in runs:
            folder = self.spool.job(run)
            if run in self._jobs or folder.request.exists():
                continue
            try:
                age_s = time.time() - folder.root.lstat().st_mtime
            except OSError:
                continue
            if age_s > _REMAINS_S:
                shutil.rmtree(folder.root, ignore_errors=True)
                self._log.info("remains_removed", run=str(run))

    def resume_work(self) -> None:
        """Go on where an earlier agent stopped: make what was being made, publish what was over."""
        for job in self.all():
            if job.state.name == "accepted":
                self._in_thread(job)
            elif job.state.name == "finished":
                self._on_finished(job)
            else:
                self.gang.tell(job)
        self.gang.start()

    def all(self) -> list[JobRun]:
        """Return every run with a record, oldest first."""
        with self._lock:
            return [self._jobs[run] for run in sorted(self._jobs)]

    def latest(self, job_id: int) -> JobRun | None:
        """Return the job's latest run that is not over yet."""
        runs = [job for job in self.all() if job.run.job_id == job_id]
        alive = [job for job in runs if job.state.name != "finished"]
        return alive[-1] if alive else None

    def forget(self, job: JobRun) -> None:
        """Drop a run whose folder is gone."""
        with self._lock:
            self._jobs.pop(job.run, None)

    def prepare(self, variables: dict[str, str]) -> None:
        """Record the job durably and begin to make its sandbox; the same run twice is fine."""
        request = Request.of(variables)
        job, is_new = self._accept(request)
        if is_new:
            self._log.info("job_accepted", run=str(job.run), user=variables.get("SLURM_JOB_USER"))
            self._in_thread(job)

    def recall(self, job_id: int, uid: int) -> JobRun | None:
        """Prepare a job of `uid` that runs here and whose Prolog never spoke, if it asks for it.

        Raises `TemporaryError` when Slurm could not be asked.
        """
        variables = self._slurm.prolog_variables(job_id, self._node)
        if variables is None or variables["SLURM_JOB_UID"] != str(uid):
            return None
        if not find(variables["SLURM_JOB_EXTRA"], variables["SLURM_JOB_COMMENT"]):
            return None
        self._log.info("job_recalled", job_id=job_id)
        self.prepare(variables)
        return self.latest(job_id)

    def _accept(self, request: Request) -> tuple[JobRun, bool]:
        with self._lock:
            known = self._jobs.get(request.run)
            if known is not None:
                return known, False
            state = State(accepted_at=time.time())
            job = JobRun(request, self.spool.job(request.run), state, self._patience_s)
            self._jobs[request.run] = job
        is_old = job.spool.root.exists()  # its record could not be read
        try:
            with job.lifecycle:  # and not the lock of all: user databases may be slow
                job.spool.root.mkdir(mode=0o711, exist_ok=True)
                job.spool.root.chmod(0o711)
                blueprint.furnish_job(job, self.spool, self._node)
                job.save_request()
        except OSError as error:
            self.forget(job)
            if not is_old:
                shutil.rmtree(job.spool.root, ignore_errors=True)
            raise NodeError(f"{job.spool.root} cannot be written: {error.strerror}") from error
        return job, True

    def _in_thread(self, job: JobRun) -> None:
        threading.Thread(
            target=self._make, args=(job,), name=f"make-{job.run}", daemon=True
        ).start()

    def _make(self, job: JobRun) -> None:
        backoff_s = 1.0
        while not job.cancelled.is_set():
            try:
                self._make_once(job)
                return
            except NodeError as error:
                if not job.cancelled.is_set():
                    self._blame_node(job, error)
                return
            except TemporaryError as error:
                if time.time() > job.give_up_at:
                    self._requeue(job, error)
                    return
                job.say(f"{error.message}; trying again")
                self._log.warning("sandbox_delayed", run=str(job.run), reason=str(error))
            except PermanentError as error:
                self._fail(job, "user", str(error))
                return
            except OSError as error:
                self._blame_node(job, NodeError(f"its disk refuses the job's record: {error}"))
                return
            except Exception:
                text = "the sbridge agent failed at making the sandbox; its log tells more"
                self._fail(job, "sbridge", text)
                raise  # logged as the bug that it is
            job.cancelled.wait(backoff_s)
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    def _make_once(self, job: JobRun) -> None:
        started = time.monotonic()
        self._make_durable(job)
        name = blueprint.runtime_of(job, self._config)
        if name == "host":
            job.advance(name="ready", runtime=name)
            self.gang.tell(job)
            return
        share = self._share_of(job)
        spec = blueprint.specification(
            job, self._config, self._node, share, self.script_dir(job.run.job_id)
        )
        with job.lifecycle:
            if job.cancelled.is_set():
                return
            job.advance(runtime=name, sandbox_name=spec.name)
            entry = self._runtimes[name].start(spec, job.spool, job)
            if isinstance(entry, Sandbox):
                self._fit(entry, job)
            self._reserve_rendezvous(job)
            job.advance(name="ready", sandbox=entry if isinstance(entry, Sandbox) else None)
            self.gang.tell(job)
        self.health.made_sandbox()
        self._log.info(
            "sandbox_ready",
            run=str(job.run),
            sandbox=spec.name,
            image=spec.image,
            duration_s=round(time.monotonic() - started, 3),
        )

    def _fit(self, sandbox: Sandbox, job: JobRun) -> None:
        for failure in fittings.fit(sandbox):
            self._log.warning("sandbox_not_fitted", run=str(job.run), reason=failure)

    def _reserve_rendezvous(self, job: JobRun) -> None:
        """Choose on the first node where the job's tasks meet."""
        if job.request.batch_host != self._node or job.state.master_port:
            return
        with self._lock:
            taken = {other.state.master_port for other in self._jobs.values()}
            job.state.master_port = rendezvous.free_port(job.run.job_id, taken)
        if not job.request.is_gang:
            job.state.master_addr = _LOOPBACK

    def gather(self, job: JobRun) -> None:
        """Have the steps of a job with several nodes wait for all its sandboxes."""
        if job.is_settled or not job.request.is_gang:
            return
        with self._lock:
            if job.run in self._gathering:
                return
            self._gathering.add(job.run)
        threading.Thread(
            target=self._gather, args=(job,), name=f"gather-{job.run}", daemon=True
        ).start()

    def _gather(self, job: JobRun) -> None:
        try:
            told = self.gang.gather(job)
            if told is not None and told.failed is not None:
                reason = f"node {told.failed_node}: {told.failed.reason}"
                self._break(job, told.failed.blame, reason)
            elif told is not None:
                job.say("the sandboxes of all nodes are ready")
                address = told.address if self._config.sandbox.host_network else ""
                job.advance(gathered=True, master_addr=address, master_port=told.port)
                self._log.info("gang_gathered", run=str(job.run), nodes=job.request.nodes)
        except TemporaryError as error:
            self._break(job, "nobody", error.message)
        finally:
            with self._lock:
                self._gathering.discard(job.run)

    def _break(self, job: JobRun, blame: str, reason: str) -> None:
        """Have no step of the job enter, because of what another node told."""
        self._log.info("gang_broken", run=str(job.run), blame=blame, reason=reason)
        if blame in ("nobody", "node"):
            job.announce(reason + _ABOUT_TO_REQUEUE)
            reason += _MOVED if self._requeued(job) else _NOT_MOVED
        if not job.cancelled.is_set() or not job.state.reason:
            job.advance(blame=blame, reason=reason)

    @staticmethod
    def _make_durable(job: JobRun) -> None:
        try:
            job.make_durable()
        except OSError as error:
            raise NodeError(f"{job.spool.root} cannot be written: {error.strerror}") from error

    def _share_of(self, job: JobRun) -> Any:
        told = self._slurm.job(job.run.job_id)
        share = told.share_of(self._node) if told else None
        if share is None:
            raise TemporaryError(f"Slurm does not tell what job {job.run.job_id} has on this node")
        return share

    def script_dir(self, job_id: int) -> Any:
        """Return where slurmd spools the script of a job (jobNNNNN in SlurmdSpoolDir)."""
        if self._script_parent is None:
            self._script_parent = self._slurm.slurmd_spool_dir(self._node)
        return self._script_parent / f"job{job_id:05d}"

    def _fail(self, job: JobRun, blame: str, reason: str) -> None:
        self._log.info("sandbox_failed", run=str(job.run), blame=blame, reason=reason)
        with job.lifecycle:
            if job.state.name == "accepted":  # it may have ended since
                job.advance(name="failed", blame=blame, reason=reason)
                self.gang.tell(job)

    def _requeue(self, job: JobRun, error: SbridgeError) -> None:
        waited_s = int(time.time() - job.state.accepted_at)
        self._move(job, "nobody", f"{error.message} (waited {waited_s} s)")

    def _move(self, job: JobRun, blame: str, reason: str) -> None:
        """Have the job requeued, by its batch host where that is another node."""
        if job.request.is_gang and job.request.batch_host != self._node:
            self._fail(job, blame, reason)
            if not job.cancelled.wait(_REQUEUE_GRACE_S):
                self._requeued(job)
            return
        job.announce(reason + _ABOUT_TO_REQUEUE)
        self._fail(job, blame, reason + (_MOVED if self._requeued(job) else _NOT_MOVED))

    def _requeued(self, job: JobRun) -> bool:
        while not job.cancelled.is_set():
            try:
                return self._slurm.requeue(job.run.job_id)
            except TemporaryError as error:
                self._log.warning("requeue_delayed", run=str(job.run), reason=str(error))
                job.cancelled.wait(_REQUEUE_RETRY_S)
        return True

    def _blame_node(self, job: JobRun, error: NodeError) -> None:
        """Drain this node first, so that the requeued job does not come back to it."""
        self.health.found_fault()
        self._log.error("node_at_fault", run=str(job.run), node=self._node, reason=str(error))
        try:
            self._slurm.drain(self._node, error.message)
        except TemporaryError as trouble:
            self._log.error("node_not_drained", node=self._node, reason=str(trouble))
        self._move(job, "node", f"node {self._node} cannot run it ({error.message})")

    def finish(self, variables: dict[str, str]) -> None:
        """Free this node of the job; returns when its sandbox is gone.

        Ends every run of the job up to the given one: slurmctld may count a requeue before
        or after it runs the Epilog. Raises `NodeError` when a sandbox stays.
        """
        request = Request.of(variables)
        runs = [job for job in self.all() if job.run.job_id == request.run.job_id]
        due = [job for job in runs if job.run <= request.run]
        if not runs and request.is_nas_job:
            due = [self._accept(request)[0]]  # Epilog without Prolog: the results are still due
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
                self._runtimes[job.state.runtime].remove(job.state.sandbox_name, job.state.sandbox)
            job.advance(name="finished", finish=variables, sandbox=None)
        self.gang.withdraw(job.run)
        self._log.info(
            "sandbox_removed",
            run=str(job.run),
            sandbox=job.state.sandbox_name,
            duration_s=round(time.monotonic() - started, 3),
        )
        self._on_finished(job)

    def sandbox_names(self) -> set[str]:
        """Return the sandboxes that are really there, of all runtimes in use."""
        return set().union(*(runtime.names() for runtime in self._in_use))

    def remove_orphan(self, name: str) -> None:
        """Remove a sandbox that no run owns."""
        for runtime in self._runtimes.values():
            if name in runtime.names():
                runtime.remove(name, None)

    def strays(self) -> list[tuple[Runtime, str]]:
        """Return the sandboxes that other nodes' agents left, with their runtimes."""
        return [(runtime, name) for runtime in self._in_use for name in sorted(runtime.strays())]
