"""Waiting for the sandboxes of a job's other nodes, in a thread of its own for each job.

`gang.py` asks the nodes; here is decided what their answers mean for the job.
"""

import threading

from bridge.agent.failures import BUG, Failures, fault_of
from bridge.agent.gang import Gang
from bridge.agent.job import JobRun
from bridge.agent.this_node import ThisNode
from bridge.errors import NodeError, TemporaryError
from bridge.job_spool import RunId


class Gathering:
    """The jobs of this node that wait for other nodes."""

    def __init__(self, node: ThisNode, gang: Gang, failures: Failures) -> None:
        self._log = node.log
        self._has_host_network = node.config.sandbox.host_network
        self._gang = gang
        self._failures = failures
        self._under_way: set[RunId] = set()
        self._lock = threading.Lock()

    def begin(self, job: JobRun) -> None:
        """Have the steps of a job with several nodes wait for all its sandboxes."""
        if job.is_settled or not job.request.is_gang:
            return
        with self._lock:
            if job.run in self._under_way:
                return
            self._under_way.add(job.run)
        threading.Thread(
            target=self._gather, args=(job,), name=f"gather-{job.run}", daemon=True
        ).start()

    def _gather(self, job: JobRun) -> None:
        try:
            told = self._gang.gather(job)
            if told is not None and told.failed is not None:
                reason = f"node {told.failed_node}: {told.failed.reason}"
                self._failures.break_gang(job, told.failed.blame, reason)
            elif told is not None:
                job.say("the sandboxes of all nodes are ready")
                address = told.address if self._has_host_network else ""
                job.advance(gathered=True, master_addr=address, master_port=told.port)
                self._log.info("gang_gathered", **job.labels, nodes=job.request.nodes)
        except TemporaryError as error:
            self._break(job, error)
        except OSError as error:
            self._break(job, fault_of(error))
        except Exception:
            self._failures.break_gang(job, "sbridge", BUG)
            raise  # logged as the bug that it is
        finally:
            with self._lock:
                self._under_way.discard(job.run)

    def _break(self, job: JobRun, fault: NodeError | TemporaryError) -> None:
        if isinstance(fault, NodeError):
            self._failures.break_gang_for_node(job, fault)
        else:
            self._failures.break_gang(job, "nobody", fault.message)
