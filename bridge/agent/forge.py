"""The forge: a small process that forks one child per task and never waits for it.

The agent has threads and a cluster client, so forking it is unsafe and slow; starting an
interpreter for each step costs tens of milliseconds. The forge is forked off the agent
before all that, knows only the standard library, and turns a message into a child in a
few milliseconds. It ends when the agent ends; its children live on.

Each child handles one message: `enter` (bridge.agent.keeper) or `publish`
(bridge.agent.publication).
"""

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from bridge import wire

Task = Callable[[wire.Message, list[int]], None]


class Forge:
    """The agent's end of the forge; `send` may be called from any thread."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.pid = pid

    def send(self, message: wire.Message, descriptors: list[int]) -> None:
        """Have a child handle `message`; raises OSError when the forge is dead."""
        with self._lock:
            wire.send(self._channel, message, descriptors)


def start(tasks: dict[str, Task]) -> Forge:
    """Fork the forge; must be called while the process has one thread only."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            # Nothing that the agent was started with may reach a user's process.
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
            _serve(theirs, tasks)
        finally:
            os._exit(0)
    theirs.close()
    return Forge(ours, pid)


def _serve(channel: socket.socket, tasks: dict[str, Task]) -> None:
    # Children are reaped by the kernel. The agent's own signals are not the forge's: it ends
    # when the channel closes, so that it never dies before the agent does.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors = wire.receive(channel)
        if message is None:
            return
        if os.fork() == 0:
            channel.close()
            _handle(tasks[message.kind], message, descriptors)
        wire.close_all(descriptors)


def _handle(task: Task, message: wire.Message, descriptors: list[int]) -> None:
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        task(message, descriptors)
        code = 0
    except BaseException:  # noqa: BLE001 - the child's last word, whatever went wrong
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
