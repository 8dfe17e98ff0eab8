"""What users' conversations may take of the agent's memory, each user's and all together.

A message is paid for before it is read, and again by its fields before it is split, since a
field costs far more than its bytes. Root's hooks pay nothing: nobody may shut them out.
"""

import collections
import threading
import time

from bridge import wire

_MIB = 1024 * 1024
# The largest message that is allowed costs 53 MiB; a usual step's, 100 KiB.
PER_USER_BYTES = 64 * _MIB
TOTAL_BYTES = 256 * _MIB
MESSAGE_S = 10.0


class BusyError(Exception):
    """There is no room for this message now; the text is for the user."""


class Budget:
    """Counts what the conversations hold; safe to use from any thread."""

    def __init__(self, per_user: int = PER_USER_BYTES, total: int = TOTAL_BYTES) -> None:
        self._per_user = per_user
        self._total = total
        self._held: collections.Counter[int] = collections.Counter()
        self._lock = threading.Lock()

    def take(self, uid: int, amount: int) -> bool:
        """Take `amount` bytes for user `uid`; False (and nothing taken) when there is no room."""
        with self._lock:
            fits = self._held[uid] + amount <= self._per_user
            if fits and self._held.total() + amount <= self._total:
                self._held[uid] += amount
                return True
            return False

    def give_back(self, uid: int, amount: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._held[uid] -= amount
            if not self._held[uid]:
                del self._held[uid]


class Purse:
    """What one conversation holds of the budget, and how long its first message may take."""

    def __init__(self, budget: Budget, uid: int) -> None:
        self._budget = budget
        self.uid = uid
        self._held = 0
        self._deadline = time.monotonic() + MESSAGE_S

    def pay(self, amount: int) -> None:
        """Pay for `amount` bytes; raises `BusyError`, or `wire.WireError` for a slow sender."""
        if time.monotonic() > self._deadline:
            raise wire.WireError(f"a message took more than {MESSAGE_S:.0f} s")
        if self.uid and not self._budget.take(self.uid, amount):
            raise BusyError("other steps' long command lines fill this node's agent")
        self._held += amount if self.uid else 0

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self._budget.give_back(self.uid, self._held)
        self._held = 0
