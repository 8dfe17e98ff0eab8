"""What becomes of a job that cannot have its sandboxes: it fails, or Slurm requeues it.

`blame` decides: for `user` and `sbridge` it fails with the reason; for `nobody` and `node` it is
requeued, and the node drained first.
"""

import errno
import time
from typing import Any

from bridge.agent.gang import Gang
from bridge.agent.job import JobRun
from bridge.agent.node_health import NodeHealth
from bridge.agent.this_node import ThisNode
from bridge.errors import NodeError, SbridgeError, TemporaryError

_OF_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
# Descriptors, memory, processes, ports: the agent's or the whole node's.
_PASSING = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.EADDRINUSE,
    }
)
_REQUEUE_RETRY_S = 5.0
# Told before it is done: Slurm then ends the steps, which would not be told any more.
_ABOUT_TO_REQUEUE = "; asking Slurm to requeue the job"
_REQUEUE_GRACE_S = 20.0  # for the batch host, which can tell the job why
_MOVED = "; the job was requeued"
_NOT_MOVED = "; the job may not be requeued, so it fails"
BUG = "the sbridge agent failed at making the sandbox; its log tells more"


class Failures:
    """Ends what cannot be, and tells the job's steps and its other nodes why."""

    def __init__(self, node: ThisNode, gang: Gang, health: NodeHealth) -> None:
        self._node = node.name
        self._slurm = node.slurm
        self._log: Any = node.log
        self._gang = gang
        self._health = health

    def fail(self, job: JobRun, blame: str, reason: str) -> None:
        """Have the job's steps fail on this node with a reason."""
        self._log.info("sandbox_failed", **job.labels, blame=blame, reason=reason)
        with job.lifecycle:
            if job.state.name == "accepted":  # it may have ended since
                job.note(name="failed", blame=blame, reason=reason)
                self._gang.tell(job)

    def give_up(self, job: JobRun, error: SbridgeError) -> None:
        """Have the job try again later: nobody is to blame that it waited in vain."""
        waited_s = int(time.time() - job.state.accepted_at)
        self._move(job, "nobody", f"{error.message} (waited {waited_s} s)")

    def blame_node(self, job: JobRun, error: NodeError) -> None:
        """Drain this node first, so that the requeued job does not come back to it."""
        self._drain(job, error)
        self._move(job, "node", self._cannot_run(error))

    def break_gang_for_node(self, job: JobRun, error: NodeError) -> None:
        """Do the same for a job whose sandbox is here already."""
        self._drain(job, error)
        self.break_gang(job, "node", self._cannot_run(error))

    def _drain(self, job: JobRun, error: NodeError) -> None:
        self._health.found_fault()
        self._log.error("node_at_fault", **job.labels, node=self._node, reason=str(error))
        try:
            self._slurm.drain(self._node, error.message)
        except TemporaryError as trouble:
            self._log.error("node_not_drained", **job.labels, node=self._node, reason=str(trouble))

    def _cannot_run(self, error: NodeError) -> str:
        return f"node {self._node} cannot run it ({error.message})"

    def break_gang(self, job: JobRun, blame: str, reason: str) -> None:
        """Have no step of the job enter, because of what another node told."""
        self._log.info("gang_broken", **job.labels, blame=blame, reason=reason)
        if blame in ("nobody", "node"):
            job.announce(reason + _ABOUT_TO_REQUEUE)
            reason += _MOVED if self._requeued(job) else _NOT_MOVED
        if not job.cancelled.is_set() or not job.state.reason:
            job.note(blame=blame, reason=reason)

    def _move(self, job: JobRun, blame: str, reason: str) -> None:
        """Have the job requeued, by its batch host where that is another node."""
        if job.request.is_gang and job.request.batch_host != self._node:
            self.fail(job, blame, reason)
            if not job.cancelled.wait(_REQUEUE_GRACE_S):
                self._requeued(job)
            return
        job.announce(reason + _ABOUT_TO_REQUEUE)
        self.fail(job, blame, reason + (_MOVED if self._requeued(job) else _NOT_MOVED))

    def _requeued(self, job: JobRun) -> bool:
        while not job.cancelled.is_set():
            try:
                return self._slurm.requeue(job.run.job_id)
            except TemporaryError as error:
                self._log.warning("requeue_delayed", **job.labels, reason=str(error))
                job.cancelled.wait(_REQUEUE_RETRY_S)
        return True


def fault_of(error: OSError) -> NodeError | TemporaryError:
    """Return whose fault it is that a call for a run's sandbox or record failed."""
    if error.errno in _OF_DISKS:
        return NodeError(f"its disk refuses the job's record: {error}")
    if error.errno in _PASSING:  # as other jobs end
        return TemporaryError(f"the sbridge agent of this node lacks what it needs: {error}")
    return NodeError(f"its system refuses what the job's sandbox needs: {error}")
