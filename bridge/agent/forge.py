"""The forge: the agent's parent process, which forks one child per message.

The agent has threads and a cluster client, so forking it is unsafe and slow; starting an
interpreter for each step costs tens of milliseconds. The forge is what the agent's process
was before all that: it knows the standard library only, and turns a message into a child in
a few milliseconds: `enter` (bridge.agent.keeper, which takes further ones by a line of its
own), `place` (bridge.agent.folders) or `publish` (bridge.agent.publication).

It also is the reaper of whatever the agent's commands leave behind (Podman's conmon): a dead
process that nobody collects keeps its cgroup, and with it the sandbox, alive.

1. serving   children are forked, the dead are collected, signals are passed on to the agent
2. ended     when the agent has ended, with its exit code; the children live on
The other way round, the agent is killed when the forge dies.
"""

# `_signal` is what `signal` wraps in enumerations, at a cost that each child has.
import _signal  # type: ignore[import-not-found]
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

from bridge import cgroups, kernel, wire
from bridge.notify import notify

Handler = Callable[[wire.Message, list[int]], None]

_NOTIFY = "notify"
# More than a step may send to the agent, which adds its own to it: bytes, descriptors, fields.
_LIMITS = (
    wire.MAX_MESSAGE_BYTES + 1024 * 1024,
    wire.MAX_DESCRIPTORS + 48,
    wire.MAX_FIELDS + 4096,
)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Forge:
    """The agent's end of the forge; `send` may be called from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def send(self, message: wire.Message, descriptors: list[int]) -> None:
        """Have a child handle `message`; raises OSError when the forge is dead."""
        with self._lock:
            wire.send(self._channel, message, descriptors)

    def notify(self, state: str) -> None:
        """Have the forge, systemd's main process, pass `state` on (bridge.notify)."""
        self.send(wire.Message(_NOTIFY, [("state", state.encode())]), [])


def start(handlers: dict[str, Handler]) -> Forge:
    """Split this process: the forge stays behind, the caller goes on in the agent's process.

    Must be called while the process has one thread only. Never returns in the forge.
    """
    ours, theirs = socket.socketpair()
    agent = os.fork()
    if agent:
        ours.close()
        os._exit(_Serving(theirs, handlers, agent).run())
    theirs.close()
    kernel.die_with_parent()
    return Forge(ours)


def receive(channel: socket.socket) -> tuple[wire.Message | None, list[int]]:
    """Receive a message of the agent's (wire.receive)."""
    return wire.receive(channel, *_LIMITS)


class _Serving:
    def __init__(self, channel: socket.socket, handlers: dict[str, Handler], agent: int) -> None:
        self._channel = channel
        self._handlers = handlers
        self._agent = agent

    def run(self) -> int:
        """Serve until the agent has ended; returns its exit code."""
        kernel.adopt_orphans()
        # Nothing that the agent was started with may reach a user's process.
        os.closerange(3, self._channel.fileno())
        os.closerange(self._channel.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        cgroups.hierarchies()  # known to every child then
        gc.collect()
        gc.freeze()
        gc.disable()  # a child is short or idle, and a collection would copy the shared memory
        wakeup = _report_signals()
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        poll.register(self._channel, select.POLLIN)
        code = self._collect_dead()  # an end of before is not reported
        while code is None:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wakeup in ready:
                self._pass_on(os.read(wakeup, 4096))
                code = self._collect_dead()
            if code is None and self._channel.fileno() in ready and not self._serve():
                poll.unregister(self._channel)  # the agent is ending
        return code

    def _serve(self) -> bool:
        """Handle the agent's next message; False when there will be none."""
        payload, descriptors = wire.receive_payload(self._channel, *_LIMITS)
        if payload is None:
            return False
        kind = wire.kind_of(payload)
        if kind == _NOTIFY:
            notify(wire.parse(payload).text("state"))
            return True
        try:
            self._fork(self._handlers[kind], payload, descriptors)
        except OSError as error:  # no process is to be had: this one is lost, not the forge
            sys.stderr.write(f"sbridge-agent: cannot fork for {kind}: {error}\n")
        finally:
            wire.close_all(descriptors)
        return True

    def _pass_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number in _PASSED_ON:
                os.kill(self._agent, number)

    def _collect_dead(self) -> int | None:
        """Collect every dead child; returns the agent's exit code once it is among them."""
        code = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return code
            if not pid:
                return code
            if pid == self._agent:
                ended = os.waitstatus_to_exitcode(status)
                code = ended if ended >= 0 else 128 - ended

    def _fork(self, handler: Handler, payload: bytes, descriptors: list[int]) -> None:
        if os.fork() == 0:
            _handle(self._channel, handler, payload, descriptors)


def _report_signals() -> int:
    wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        signal.signal(number, _noted)
    return wakeup


def _noted(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""


def _handle(
    channel: socket.socket, handler: Handler, payload: bytes, descriptors: list[int]
) -> None:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            _signal.signal(number, _signal.SIG_DFL)
        channel.close()
        os.setsid()
        handler(wire.parse(payload), descriptors)
        code = 0
    except BaseException:  # noqa: BLE001 - the child's last word, whatever went wrong
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
