"""The keeper: holds the tasks of one step that entered their sandbox on this node.

A child of the forge, root, outside the sandbox. Like slurmstepd it leads the session that its
tasks' processes are in; it moves itself to the first one's cgroups.

1. holding   tasks begin as the agent sends them, signals are passed on, ends are told
             (bridge.agent.held_task)
2. ended     with its last task, whose sbridge-run waits for that: slurmstepd sleeps for a second
             when it finds a process left in the step's cgroup
"""

# `_signal` is what `signal` wraps in enumerations, at a cost that each of 64 signals has.
import _signal  # type: ignore[import-not-found]
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from bridge import wire
from bridge.agent.entry import Entry
from bridge.agent.forge import receive
from bridge.agent.held_task import HeldTask
from bridge.agent.script_process import UNCATCHABLE

_DOUBT_MS = 20
# For lack of memory, as slurmstepd: it is larger than small tasks, which would all end with it.
_KILLED_LAST = b"-1000"
_MOST_TASKS = 32  # each holds ten descriptors open, and is looked at whenever something happens


def enter(message: wire.Message, descriptors: list[int]) -> None:
    """Handle the agent's `enter`: hold its task, and those that come by the first descriptor."""
    channel = socket.socket(fileno=descriptors.pop(0))
    _Keeper(channel).run(message, descriptors)
    os._exit(0)  # tidying up would copy what is shared with the forge


class _Keeper:
    def __init__(self, channel: socket.socket) -> None:
        self._channel: socket.socket | None = channel
        self._tasks: list[HeldTask] = []
        self._has_place = False
        self._score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        self._usual_score = os.read(self._score, 64)
        self._poll = select.poll()
        self._wakeup = _catch_signals()
        for descriptor in (self._wakeup, channel.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def run(self, message: wire.Message, descriptors: list[int]) -> None:
        """Hold this task, and others, until all have ended."""
        try:
            self._take(message, descriptors)
            while self._tasks or self._take_the_last():
                self._serve()
        finally:
            for task in self._tasks:  # no script without its keeper
                task.close()

    def _serve(self) -> None:
        is_in_doubt = any(task.is_in_doubt for task in self._tasks)
        ready = dict(self._poll.poll(_DOUBT_MS if is_in_doubt else None))
        for task in self._tasks:
            self._attempt(task, task.serve, ready)
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)
            for task in self._tasks:
                self._attempt(task, task.collect)
        if self._channel is not None and self._channel.fileno() in ready:
            self._take_next(self._channel)
        self._let_go()

    @staticmethod
    def _attempt(task: HeldTask, action: Callable[..., None], *what: object) -> None:
        """Have a task do something; what goes wrong there ends this one, and no other."""
        try:
            action(*what)
        except Exception as error:  # noqa: BLE001
            sys.excepthook(*sys.exc_info())
            task.drop(f"this task was ended, the node could not go on with it: {error}")

    def _take_next(self, channel: socket.socket) -> None:
        """Take a task that the agent sent; without the agent there will be none."""
        try:
            message, descriptors = receive(channel)
        except (OSError, wire.WireError):
            message, descriptors = None, []
        if message is None:
            self._poll.unregister(channel)
            channel.close()
            self._channel = None
        else:
            self._take(message, descriptors)

    def _take(self, message: wire.Message, descriptors: list[int]) -> None:
        entry = Entry.of(message, descriptors)
        task = HeldTask(entry, self._poll, lambda: len(self._tasks) == 1)
        try:
            self._set_score(self._usual_score)  # the child inherits it
            task.start()
            if not self._has_place:
                entry.take_place(0)
                self._has_place = True
            entry.close_cgroups()
        except Exception as error:  # noqa: BLE001 - the others stay
            if not isinstance(error, OSError):
                sys.excepthook(*sys.exc_info())
            task.drop(f"the sandbox could not be entered: {error}")
            task.close()
        else:
            self._tasks.append(task)
        finally:
            self._set_score(_KILLED_LAST)
        if len(self._tasks) == _MOST_TASKS:
            self._take_the_last()

    def _set_score(self, score: bytes) -> None:
        with contextlib.suppress(OSError):  # root in a container may not be allowed to lower it
            os.write(self._score, score)

    def _let_go(self) -> None:
        """Tell the ends of tasks; with the last one this process ends."""
        for task in [task for task in self._tasks if task.is_over]:
            if len(self._tasks) == 1:
                self._take_the_last()
            is_last = len(self._tasks) == 1
            task.tell_end(os.pidfd_open(os.getpid()) if is_last else None)
            task.close()
            self._tasks.remove(task)  # now only: closing asks whether it is alone

    def _take_the_last(self) -> bool:
        """Take what was sent, and let nothing more be sent; returns whether there is a task."""
        if self._channel is not None:
            self._channel.shutdown(socket.SHUT_RD)
        while self._channel is not None:
            self._take_next(self._channel)
        return bool(self._tasks)


def _catch_signals() -> int:
    """Have children's ends reported on the returned descriptor; let no signal end this process."""
    wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _signal.valid_signals() - UNCATCHABLE:
        _signal.signal(number, _signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _noted)
    return wakeup


def _noted(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""
