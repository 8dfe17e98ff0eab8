"""Whether something outside works, told once when that changes."""

import time
from typing import Any


class Condition:
    """A thing that works or does not; every change is one log line.

    `events` are the names of the two lines: (stopped working, works again).
    """

    def __init__(self, log: Any, stopped: str, works: str) -> None:
        self._log = log
        self._events = (stopped, works)
        self._stopped_at: float | None = None

    @property
    def is_good(self) -> bool:
        return self._stopped_at is None

    def failed(self, reason: str, **facts: Any) -> None:
        """Note that it did not work, and why."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._log.warning(self._events[0], reason=reason, **facts)

    def worked(self) -> None:
        """Note that it worked."""
        if self._stopped_at is not None:
            duration_s = round(time.monotonic() - self._stopped_at, 1)
            self._stopped_at = None
            self._log.info(self._events[1], duration_s=duration_s)
