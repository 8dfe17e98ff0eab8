"""Whether this node can make sandboxes, and how long to wait before that is looked at again.

1. sound     nothing is known against the node
2. resting   a fault was found; the node is drained and nobody looks for a while
3. due       the rest is over: reconcile looks, and resumes the node or lets it rest again

A look does not see every fault. One that comes back at once costs a job its place each time,
so each rest is twice as long as the last, until a sandbox was really made.
"""

import threading
import time
from collections.abc import Callable, Collection

from bridge import disk
from bridge.job_spool import NodeSpool
from bridge.runtimes.sandbox import Runtime

_SHORTEST_REST_S = 5.0
_LONGEST_REST_S = 600.0


class NodeHealth:
    """What is known of this node's faults; used by several threads."""

    def __init__(
        self,
        spool: NodeSpool,
        runtimes: Collection[Runtime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._runtimes = runtimes
        self._clock = clock
        self._lock = threading.Lock()
        self._rest_s = 0.0
        self._rests_until: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether a fault was found and it is time to look whether it is still there."""
        return self._rests_until is not None and not self.is_resting

    @property
    def is_resting(self) -> bool:
        """Whether a fault was found and it is too early to look again."""
        until = self._rests_until
        return until is not None and self._clock() < until

    def found_fault(self) -> None:
        """Begin a rest; the faults of many jobs at the same time are one."""
        with self._lock:
            if self.is_resting:
                return
            self._rest_s = min(max(2 * self._rest_s, _SHORTEST_REST_S), _LONGEST_REST_S)
            self._rests_until = self._clock() + self._rest_s

    def made_sandbox(self) -> None:
        """Take the last fault for really over: the next one's rest is short again."""
        with self._lock:
            self._rest_s = 0.0

    def settle(self) -> None:
        """Stop looking: the node was resumed, or an administrator decides about it."""
        with self._lock:
            self._rests_until = None

    def check(self) -> None:
        """Raise `NodeError` when records or sandboxes cannot be made here now."""
        disk.check(self._spool.jobs)
        for runtime in self._runtimes:
            runtime.check()
