"""One task that a keeper holds: the script's process in its sandbox, and who is to hear of it.

1. starting   the child (bridge.agent.script_process) joins the sandbox's namespaces and becomes the
   user for good; meanwhile it is put into the step's place: its cgroups, CPU affinity, nice value
   and more (what a child of sbridge-run would have inherited)
2. entered    sbridge-run has been told; on its "go" the child executes the interpreter
3. running    signals are passed on, each to the same processes as natively and once
4. ended      the wait status is known
5. over       sbridge-run may be told

Signals. Slurm knows sbridge-run only, which tells what it got and whether its whole process
group got it; on a busy node that turns out when the script has it already, and is then for the
others. Natively `scancel -b` reaches the script's process, `scancel -f` its process group;
without cgroups (proctrack/linuxproc) a signal for the step reaches every descendant.
"""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Mapping

from bridge import kernel, wire
from bridge.agent import script_copy, usage
from bridge.agent.descendants import descendants, members
from bridge.agent.door import Door
from bridge.agent.entry import Entry
from bridge.agent.script_process import ScriptProcess
from bridge.agent.stop_watch import StopWatch

_OVER = select.POLLHUP | select.POLLERR
_SANDBOX_DEATH_S = 0.5
_NO_SESSION = -1


class HeldTask:
    """One task; `poll` is its keeper's, and `is_alone` says whether the keeper holds no other."""

    def __init__(self, entry: Entry, poll: "select.poll", is_alone: Callable[[], bool]) -> None:
        self._entry = entry
        self._poll = poll
        self._is_alone = is_alone
        self._connection = entry.connection
        self._in_step_cgroup = entry.message.text("cgroup") == "slurm"
        self._child = 0
        self._session = _NO_SESSION
        self._stops: StopWatch | None = None
        self._door: Door | None = None
        self._status: int | None = None
        self._doubt_ends = 0.0
        self._is_dropped = False
        self._watched: set[int] = set()
        self._pipes: list[int] = []

    def start(self) -> None:
        """Begin; raises OSError when the sandbox cannot be entered."""
        self._spool_script()
        self._trouble, trouble_writer = self._pipe()
        permission, self._permit = self._pipe()
        self._ready, ready_writer = self._pipe()
        child = ScriptProcess(self._entry, trouble_writer, permission, self._permit, ready_writer)
        self._child = child.start()
        for descriptor in (trouble_writer, permission, ready_writer):
            self._pipes.remove(descriptor)
            os.close(descriptor)
        self._entry.close_the_childs()
        wire.send(self._connection, wire.Message("entered"))
        self._entry.take_place(self._child)
        self._watch(self._connection.fileno())
        self._watch(self._trouble)

    @property
    def is_in_doubt(self) -> bool:
        """Whether it was killed, perhaps with its whole sandbox, and that will be known soon."""
        return self._status is not None and self._doubt_ends > 0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left but to `close` it."""
        return self._is_dropped or (self._status is not None and not self.is_in_doubt)

    def collect(self) -> None:
        """Look whether the child or a command has ended, after a SIGCHLD."""
        if self._status is None and self._child:
            pid, status, used = os.wait4(self._child, os.WNOHANG)
            if pid:
                self._end(status, used)
                return
        if self._door is not None:
            self._door.collect()

    def serve(self, ready: Mapping[int, int]) -> None:
        """Handle what the keeper's poll found ready: descriptors and their events."""
        if self._trouble in ready and not self._tell_trouble():
            self._unwatch(self._trouble)
        if self.is_in_doubt:
            self._look_at_the_sandbox()
        if self._status is not None or self._is_dropped:
            return
        if self._door is not None:
            self._door.serve(ready)
        stops = self._stops
        is_asked = self._connection.fileno() in ready
        if is_asked and not self._take_message():
            self._unwatch(self._connection.fileno())
        if stops is not None and (is_asked or stops.descriptor in ready):
            self._pass_stop_on(stops)
            if ready.get(stops.descriptor, 0) & _OVER:
                self._unwatch(stops.descriptor)  # sbridge-run has ended

    def tell_end(self, keeper: int | None) -> None:
        """Tell sbridge-run the wait status, and of the keeper (a pidfd) whose end it waits for."""
        if self._status is None:
            return
        fields: wire.Fields = [("status", b"%d" % self._status)]
        if self._doubt_ends < 0:
            fields.append(("lost", b"1"))
        self._send("exited", fields, [] if keeper is None else [keeper])

    def drop(self, reason: str) -> None:
        """Tell sbridge-run why its task is not held, or no longer.

        Why its sandbox has ended it asks the agent, which knows.
        """
        self._is_dropped = True
        if self._child and self._init_is_dead():
            return
        self._send("failed", [("text", os.fsencode(reason)), ("exit_code", b"1")])

    def close(self) -> None:
        """Let go of everything; what still runs of the task is killed."""
        if self._status is None and self._child:
            self._kill_everything(signal.SIGKILL)
            os.waitpid(self._child, 0)
        if self._door is not None:
            self._door.close()
        for descriptor in list(self._watched):
            self._unwatch(descriptor)
        wire.close_all(self._pipes)
        if self._stops is not None:
            self._stops.close()
        self._entry.close()

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._pipes += ends
        return ends

    def _watch(self, descriptor: int) -> None:
        self._watched.add(descriptor)
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._poll.unregister(descriptor)

    def _go(self, message: wire.Message) -> None:
        """Let the child execute the interpreter: no signal can be lost any more."""
        if message.kind != "go":
            self._is_dropped = True
            return
        if not os.read(self._ready, 1):
            return  # the child has ended, as will be seen
        self._session = os.getsid(self._child)
        self._watch_stops(message.first("witness"))
        self._door = Door(self._entry.message.text("door"), self._entry, self._poll)
        with contextlib.suppress(BrokenPipeError):  # the child has ended, as will be seen
            os.write(self._permit, b"!")  # the script finds the door

    def _watch_stops(self, witness: bytes) -> None:
        if self._entry.switches is None:
            return
        try:
            self._stops = StopWatch(self._entry.switches, self._entry.caller, witness)
        except OSError:
            return  # a kernel without perf events: SIGSTOP stays with sbridge-run
        self._watch(self._stops.descriptor)

    def _spool_script(self) -> None:
        """Have the sandbox show the batch script under slurmd's own path."""
        message, target = self._entry.message, self._entry.message.text("script_copy")
        if self._entry.script is not None and target:
            script_copy.make(self._entry.script, target, int(message.first("uid")))

    def _pass_stop_on(self, stops: StopWatch) -> None:
        if stops.saw_stop():
            self._signal(signal.SIGSTOP, "group" if stops.is_group_stopped() else "script")

    def _tell_trouble(self) -> bool:
        """Pass on what the child said before its exec; False at the end."""
        text = os.read(self._trouble, 4096)
        for line in filter(None, text.split(b"\n")):  # a CR belongs to what is told of
            self._send("warning", [("text", line), ("exit_code", b"1")])
            self._warn_summary(line)
        return bool(text)

    def _warn_summary(self, line: bytes) -> None:
        path = self._entry.message.text("warnings")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            os.write(descriptor, line + b"\n")
            os.close(descriptor)
        except OSError:
            pass  # the disk is full: stderr has it all the same

    def _take_message(self) -> bool:
        """Handle what sbridge-run says; False (and the task is ended) when it is gone."""
        try:
            message, _ = wire.receive(self._connection, max_descriptors=0)
        except (OSError, wire.WireError):
            message = None
        if message is None:
            self._is_dropped = self._door is None
            if self._door is not None:
                self._kill_everything(signal.SIGKILL)
            return False
        if self._door is None:
            self._go(message)
            return True
        if self._stops is not None:
            self._stops.saw_life()
        self._signal(int(message.first("number")), message.text("to"))
        return True

    def _signal(self, number: int, to: str) -> None:
        """Signal the `script`'s process, its `group`, or the `others` of that."""
        if to == "script":
            self._kill(self._child, number)
        elif to == "others":
            for pid in self._group():
                if pid != self._child:
                    self._kill(pid, number)
        elif self._in_step_cgroup:
            self._kill(-self._child, number)  # the child leads its group
        else:
            self._kill_everything(number)

    def _group(self) -> list[int]:
        return members(self._child) if self._in_step_cgroup else self._everything()

    def _kill_everything(self, number: int) -> None:
        for pid in self._everything():
            self._kill(pid, number)

    def _everything(self) -> list[int]:
        # Who left the task's tree cannot be told from those who left another one's.
        session = self._session if self._is_alone() else _NO_SESSION
        return descendants(self._child, session)

    def _kill(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended by itself

    def _end(self, status: int, used: resource.struct_rusage) -> None:
        self._status = status
        while self._trouble in self._watched and self._tell_trouble():
            pass
        if self._door is not None:
            self._door.close()
        usage.note(self._entry.message.text("usage"), used)  # once the end is told, Slurm may kill
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self._doubt_ends = time.monotonic() + _SANDBOX_DEATH_S

    def _look_at_the_sandbox(self) -> None:
        """End the doubt if the sandbox is ending: its first process dies right after the others."""
        if self._init_is_dead():
            self._doubt_ends = -1
        elif time.monotonic() >= self._doubt_ends:
            self._doubt_ends = 0

    def _init_is_dead(self) -> bool:
        try:
            return kernel.is_dead(self._entry.init)
        except OSError:
            return True

    def _send(self, kind: str, fields: wire.Fields, descriptors: list[int] | None = None) -> None:
        try:
            wire.send(self._connection, wire.Message(kind, fields), descriptors)
        except OSError:
            pass  # sbridge-run is gone; nobody is left to tell
