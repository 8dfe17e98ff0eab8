"""The keepers at work, as the agent knows them: tasks of one step on this node share one.

A keeper that was just forked costs milliseconds, and memory of the job's for as long as the task
runs; another task in it costs a fraction of both.
"""

import select
import socket
import threading
from dataclasses import dataclass, field

from bridge import wire
from bridge.agent.forge import Forge

_SILENCE_S = 10.0


@dataclass(eq=False)
class _Line:
    """What a keeper takes tasks from, once it has been asked for."""

    ours: socket.socket
    theirs: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_asked_for: bool = False


class Keepers:
    """Has tasks held; safe to use from any thread."""

    def __init__(self, forge: Forge) -> None:
        self._forge = forge
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()

    def hold(self, step: str, order: wire.Message, descriptors: list[int]) -> None:
        """Have a keeper hold a task: one that holds others of `step`, or a new one.

        Raises OSError when the forge is dead.
        """
        while True:
            line = self._line(step)
            with line.lock:
                if self._send(line, order, descriptors):
                    return
            self._forget(step, line)  # its keeper has ended

    def _line(self, step: str) -> _Line:
        with self._lock:
            line = self._lines.get(step)
            if line is None:
                self._forget_the_dead()
                line = self._lines[step] = _Line(*socket.socketpair())
                line.ours.settimeout(_SILENCE_S)
            return line

    def _send(self, line: _Line, order: wire.Message, descriptors: list[int]) -> bool:
        if line.is_asked_for:
            try:
                wire.send(line.ours, order, descriptors)
            except OSError:
                return False
            return True
        self._forge.send(order, [line.theirs.fileno(), *descriptors])
        line.theirs.close()
        line.is_asked_for = True
        return True

    def _forget(self, step: str, line: _Line) -> None:
        with self._lock:
            if self._lines.get(step) is line:
                del self._lines[step]
        with line.lock:
            line.ours.close()

    def _forget_the_dead(self) -> None:
        """Close the lines of keepers that have ended; called with each new one."""
        for step, line in list(self._lines.items()):
            if line.lock.acquire(blocking=False):
                if line.is_asked_for and is_hung_up(line.ours):
                    line.ours.close()
                    del self._lines[step]
                line.lock.release()


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the other end was closed, or at least sends no more."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))
