"""Outputs on the further nodes of a job: their agents deliver them, the batch host's waits for it.

A node's word about a run (`gang.py`) tells it: where outputs are to be delivered it stays until
they are. Slurm calls a job over when every node's Epilog has returned, and by then a node without
outputs has taken back its word, or is about to; so who asks after that misses nothing.
"""

import time
from typing import Any

from bridge.agent.gang import Gang
from bridge.agent.job import JobRun

_PATIENCE_S = 600.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


def is_due(job: JobRun, node: str) -> bool:
    """Whether what the run left on this node must get to the batch host's results."""
    return job.request.is_gang and job.request.batch_host != node and has_outputs(job)


def has_outputs(job: JobRun) -> bool:
    """Whether there is anything in the run's outputs on this node."""
    try:
        return any(job.spool.outputs.iterdir())
    except OSError:
        return False


class Deliveries:
    """Who has still to deliver, as the nodes' words tell."""

    def __init__(self, gang: Gang, log: Any) -> None:
        self._gang = gang
        self._log = log
        self._waited: dict[str, float] = {}  # since when, by run

    def wait(self, job: JobRun) -> list[str]:
        """Wait for the other nodes; returns those that have not delivered in ten minutes.

        Raises `TemporaryError` when Slurm could not be asked.
        """
        if not job.request.is_gang:
            return []
        began = self._waited.setdefault(str(job.run), time.monotonic())
        pause_s = _FIRST_PAUSE_S
        while missing := self._gang.telling(job):
            if time.monotonic() > began + _PATIENCE_S:
                self._log.warning("deliveries_missing", **job.labels, nodes=missing)
                return missing
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return []

    def done(self, job: JobRun) -> None:
        """Take back this node's word of a run that is published or delivered."""
        self._waited.pop(str(job.run), None)
        self._gang.withdraw(job.run)
