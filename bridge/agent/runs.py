"""The runs that this node has a record of, in memory as on disk.

A record that cannot be read is nobody's run, and stays.
"""

import shutil
import threading
import time

from bridge.agent import blueprint
from bridge.agent.job import JobRun, Request, State
from bridge.agent.this_node import ThisNode
from bridge.errors import NodeError
from bridge.job_spool import RunId

_REMAINS_S = 3600.0


class Runs:
    """Every run from its record to its published results; used by several threads."""

    def __init__(self, node: ThisNode) -> None:
        self._node = node
        self._log = node.log
        self.spool = node.spool
        self._patience_s = node.config.agent.sandbox_start_timeout_s
        self._jobs: dict[RunId, JobRun] = {}
        self._lock = threading.Lock()

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

    def all(self) -> list[JobRun]:
        """Return every run with a record, oldest first."""
        with self._lock:
            return [self._jobs[run] for run in sorted(self._jobs)]

    def of_job(self, job_id: int) -> list[JobRun]:
        """Return the runs of a job, oldest first."""
        return [job for job in self.all() if job.run.job_id == job_id]

    def latest(self, job_id: int) -> JobRun | None:
        """Return the job's latest run that is not over yet."""
        alive = [job for job in self.of_job(job_id) if job.state.name != "finished"]
        return alive[-1] if alive else None

    def record(self, request: Request) -> tuple[JobRun, bool]:
        """Return the run of a request, and whether it is new: then its record is on disk now.

        Raises `NodeError` when it cannot be recorded.
        """
        with self._lock:
            known = self._jobs.get(request.run)
            if known is not None:
                return known, False
            state = State(accepted_at=time.time())
            job = JobRun(request, self.spool.job(request.run), state, self._patience_s)
            self._jobs[request.run] = job
        is_old = job.spool.root.exists()  # its record could not be read
        try:
            with job.lifecycle:  # and not the lock of all: the disk may be slow
                job.spool.root.mkdir(mode=0o711, exist_ok=True)
                job.spool.root.chmod(0o711)
                blueprint.furnish_job(job, self.spool, self._node.name)
                job.save_request()
        except OSError as error:
            self.forget(job)
            if not is_old:
                shutil.rmtree(job.spool.root, ignore_errors=True)
            raise NodeError(f"{job.spool.root} cannot be written: {error.strerror}") from error
        return job, True

    def forget(self, job: JobRun) -> None:
        """Drop a run whose folder is gone."""
        with self._lock:
            self._jobs.pop(job.run, None)

    def remove_remains(self) -> None:
        """Remove folders of runs that are over, made again by a container runtime that had hung.

        It makes what a container is to mount, also for one that nobody wants any more. No run has
        such a folder, and there is no record in it; a trial's folder is younger.
        """
        try:
            runs = self.spool.runs()
        except OSError:
            return  # `NodeHealth` says why
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
