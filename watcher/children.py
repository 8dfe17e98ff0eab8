"""The watcher's children: begun, listened to, ended when they take too long.

Each child's end is told once, by its callback: with a result, or with the error that stands
for it. A child that hangs in the kernel is told as lost at its deadline, although it is still
there; it counts as `stuck` until the kernel lets it go.
"""

import os
import selectors
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bridge import as_user
from bridge.as_user import Child, ChildCrashed, ChildLost
from bridge.errors import SbridgeError

Done = Callable[[Any, SbridgeError | None], None]


class Children:
    """The children of one loop, in its selector."""

    def __init__(self, selector: selectors.BaseSelector, log: Any) -> None:
        self._selector = selector
        self._log = log
        self._under_way: dict[Child, Done] = {}
        self._stuck: set[Child] = set()
        self._owners: dict[Child, int] = {}

    @property
    def stuck(self) -> int:
        """How many that work for somebody were told as lost and are still there."""
        return sum(child in self._owners for child in self._stuck)

    def by_owner(self) -> Counter[int]:
        """Return how many children, stuck ones included, work for each owner.

        Who a child became counts more than whose it was begun as.
        """
        ours = os.geteuid()
        for child in self._owners:
            uid = child.uid()
            if uid != ours:
                self._owners[child] = uid
        return Counter(self._owners.values())

    def holds(self, child: Child | None) -> bool:
        """Whether the child is still there."""
        return child in self._under_way or child in self._stuck

    def begin(
        self,
        work: Callable[[], Any],
        done: Done,
        *,
        timeout_s: float,
        ends_with_parent: bool,
        owner: int | None = None,
    ) -> Child | None:
        """Fork a child that does `work`; `done` gets its result or the error in its place.

        `owner` is for whom it probably works, None when for nobody. Returns None, and has told
        `done`, when the machine had no room for a child.
        """
        try:
            child = as_user.start(work, timeout_s=timeout_s, ends_with_parent=ends_with_parent)
        except OSError as error:
            done(None, ChildLost(f"could not be started: {as_user.describe(error)}"))
            return None
        self._under_way[child] = done
        if owner is not None:
            self._owners[child] = owner
        self._selector.register(child, selectors.EVENT_READ, lambda: self._receive(child))
        return child

    def next_deadline(self) -> float | None:
        """Return when the next child takes too long, as a time of time.monotonic()."""
        return min((child.deadline for child in self._under_way), default=None)

    def end_overdue(self, now: float) -> None:
        """Kill the children that take too long, and tell them as lost."""
        for child in [child for child in self._under_way if child.deadline <= now]:
            child.kill()
            done = self._under_way.pop(child)
            self._stuck.add(child)
            done(None, ChildLost(f"did not answer within {child.timeout_s:g} s"))

    def end_all(self) -> None:
        """Kill all children, and tell nobody."""
        for child in (*self._under_way, *self._stuck):
            child.kill()

    def _receive(self, child: Child) -> None:
        if not child.receive():
            return
        self._selector.unregister(child)
        done = self._under_way.pop(child, None)
        self._stuck.discard(child)
        self._owners.pop(child, None)
        try:
            result, trouble = child.result(), None
        except SbridgeError as error:
            result, trouble = None, error
        if isinstance(trouble, ChildCrashed):
            self._log.error("child_crashed", reason=str(trouble))
        if done:
            began = child.deadline - child.timeout_s
            self._log.debug("child_ended", pid=child.pid, duration_s=_since(began))
            done(result, trouble)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 4)
