"""The keeper: holds one entered step; a child of the forge, root, outside the sandbox.

1. forks; the child (bridge.agent.script_process) joins the sandbox's namespaces and becomes the
   user for good
2. meanwhile takes the step's place, the child with it: its cgroups, CPU affinity, nice value and
   more (what a child of sbridge-run would have inherited);
   joining a cgroup after some idle time costs ten milliseconds, hence at the same time
3. on sbridge-run's "go" has the child exec the interpreter
4. passes signals on, each to the same processes as natively and once
5. reports the wait status and ends

Signals. Slurm knows sbridge-run only, which tells what it got and whether its whole process
group got it. Natively `scancel -b` reaches the script's process, `scancel -f` its process
group; without cgroups (proctrack/linuxproc) a signal for the step reaches every descendant.
"""

# `_signal` is what `signal` wraps in enumerations, at a cost that each of 64 signals has.
import _signal  # type: ignore[import-not-found]
import os
import select
import signal
import socket
import time

from bridge import kernel, wire
from bridge.agent import usage
from bridge.agent.descendants import descendants
from bridge.agent.door import Door
from bridge.agent.entry import Entry
from bridge.agent.script_process import UNCATCHABLE, ScriptProcess
from bridge.agent.stop_watch import StopWatch

_OVER = select.POLLHUP | select.POLLERR
_SANDBOX_DEATH_S = 0.5
_SCRIPT_LIMIT_BYTES = 64 * 1024 * 1024


def enter(message: wire.Message, descriptors: list[int]) -> None:
    """Handle the agent's `enter`: run the step to its end, report that, and end."""
    entry = Entry.of(message, descriptors)
    try:
        _Keeper(entry).run()
    except OSError as error:
        _report(entry.connection, "failed", f"the sandbox could not be entered: {error}")
    os._exit(0)  # tidying up would copy what is shared with the forge


def _report(connection: socket.socket, kind: str, text: str) -> None:
    fields: wire.Fields = [("text", os.fsencode(text)), ("exit_code", b"1")]
    try:
        wire.send(connection, wire.Message(kind, fields))
    except OSError:
        pass  # sbridge-run is gone; nobody is left to tell


class _Keeper:
    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._connection = entry.connection
        self._in_step_cgroup = entry.message.text("cgroup") == "slurm"
        self._child = 0
        self._session = -1
        self._stops: StopWatch | None = None

    def run(self) -> None:
        self._spool_script()
        wakeup = _catch_signals()
        trouble, trouble_writer = os.pipe2(os.O_CLOEXEC)
        permission, permit = os.pipe2(os.O_CLOEXEC)
        ready, ready_writer = os.pipe2(os.O_CLOEXEC)
        child = ScriptProcess(self._entry, trouble_writer, permission, permit, ready_writer)
        self._child = child.start()
        namespaces = (descriptor for descriptor, _ in self._entry.namespaces)
        for descriptor in (trouble_writer, permission, ready_writer, *namespaces):
            os.close(descriptor)
        for _, descriptor in self._entry.step:
            os.close(descriptor)
        wire.send(self._connection, wire.Message("entered"))
        self._inherit()
        go, _ = wire.receive(self._connection)
        if go is None or go.kind != "go" or not os.read(ready, 1):
            return
        self._session = os.getsid(self._child)
        self._watch_stops(go.first("witness"))
        poll = select.poll()
        door = Door(self._entry.message.text("door"), self._entry, poll)
        os.write(permit, b"!")  # the script finds the door
        try:
            self._hold(poll, door, wakeup, trouble)
        except BaseException:
            self._kill_everything(signal.SIGKILL)  # no script without its keeper
            raise
        finally:
            door.close()

    def _inherit(self) -> None:
        for processes in self._entry.cgroups:
            for pid in (self._child, os.getpid()):
                os.write(processes, b"%d" % pid)
            os.close(processes)
        heritage = self._entry.heritage
        heritage.rarities.hand_on(self._child)
        for pid in (self._child, 0):
            os.sched_setaffinity(pid, heritage.cpus)
            os.setpriority(os.PRIO_PROCESS, pid, heritage.nice)

    def _watch_stops(self, witness: bytes) -> None:
        if self._entry.switches is None:
            return
        try:
            self._stops = StopWatch(self._entry.switches, self._entry.caller, witness)
        except OSError:
            pass  # a kernel without perf events: SIGSTOP stays with sbridge-run

    def _spool_script(self) -> None:
        """Copy the batch script to where the sandbox shows it under slurmd's own path."""
        target = self._entry.message.text("script_copy")
        if self._entry.script is None or not target:
            return
        draft = f"{target}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(draft, flags, 0o500)
        try:
            self._copy_script(copy)
            os.rename(draft, target)
        except BaseException:
            os.unlink(draft)  # it does not count against the user's quota
            raise
        finally:
            os.close(copy)
            os.close(self._entry.script)

    def _copy_script(self, copy: int) -> None:
        assert self._entry.script is not None
        size = 0
        while chunk := os.pread(self._entry.script, 1 << 20, size):
            size += os.write(copy, chunk)
            if size > _SCRIPT_LIMIT_BYTES:
                raise OSError("the script is larger than 64 MiB; put its data into another file")
        os.fchown(copy, int(self._entry.message.first("uid")), -1)

    def _hold(self, poll: "select.poll", door: Door, wakeup: int, trouble: int) -> None:
        for descriptor in (wakeup, trouble, self._connection.fileno()):
            poll.register(descriptor, select.POLLIN)
        if self._stops is not None:
            poll.register(self._stops.descriptor, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if trouble in ready and not self._tell_trouble(trouble):
                poll.unregister(trouble)
            if wakeup in ready and self._has_ended(wakeup, door):
                return
            door.collect()
            door.serve(ready)
            if self._connection.fileno() in ready and not self._take_message():
                poll.unregister(self._connection)
            if self._stops is not None:
                self._pass_stop_on(self._stops)
                if ready.get(self._stops.descriptor, 0) & _OVER:
                    poll.unregister(self._stops.descriptor)  # sbridge-run has ended

    def _pass_stop_on(self, stops: StopWatch) -> None:
        if stops.saw_stop():
            self._signal(signal.SIGSTOP, is_for_group=stops.is_group_stopped())

    def _tell_trouble(self, trouble: int) -> bool:
        """Pass on what the child said before its exec; False at the end."""
        text = os.read(trouble, 4096)
        for line in text.splitlines():
            _report(self._connection, "warning", os.fsdecode(line))
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

    def _has_ended(self, wakeup: int, door: Door) -> bool:
        """Report the child's end, if it is that which woke us."""
        os.read(wakeup, 4096)
        pid, status, used = os.wait4(self._child, os.WNOHANG)
        if pid:
            # Once the end is told, Slurm may kill this process.
            door.close()
            usage.note(self._entry.message.text("usage"), used)
            self._report_end(status)
        return bool(pid)

    def _take_message(self) -> bool:
        """Handle what sbridge-run says; False (and the step is ended) when it is gone."""
        try:
            message, _ = wire.receive(self._connection)
        except (OSError, wire.WireError):
            message = None
        if message is None:
            self._kill_everything(signal.SIGKILL)
            return False
        if self._stops is not None:
            self._stops.saw_life()
        self._signal(int(message.first("number")), is_for_group=bool(message.first("group")))
        return True

    def _signal(self, number: int, *, is_for_group: bool) -> None:
        if not is_for_group:
            self._kill(self._child, number)
        elif self._in_step_cgroup:
            self._kill(-self._child, number)  # the child leads its group
        else:
            self._kill_everything(number)

    def _kill_everything(self, number: int) -> None:
        for pid in descendants(self._child, self._session):
            self._kill(pid, number)

    def _kill(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended by itself

    def _report_end(self, status: int) -> None:
        fields: wire.Fields = [("status", b"%d" % status)]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and self._init_died():
            fields.append(("lost", b"1"))
        try:
            wire.send(
                self._connection, wire.Message("exited", fields), [os.pidfd_open(os.getpid())]
            )
        except OSError:
            pass  # sbridge-run was killed; Slurm knows the end already

    def _init_died(self) -> bool:
        """Whether the sandbox is ending: its first process dies right after the others."""
        deadline = time.monotonic() + _SANDBOX_DEATH_S
        while time.monotonic() < deadline:
            try:
                state = kernel.read(self._entry.init, "stat").rpartition(b")")[2].split()[0]
            except OSError:
                return True
            if state in (b"Z", b"X"):
                return True
            time.sleep(0.02)
        return False


def _catch_signals() -> int:
    """Have the child's end reported on the returned descriptor; let no signal end this process."""
    wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _signal.valid_signals() - UNCATCHABLE:
        _signal.signal(number, _signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _noted)
    return wakeup


def _noted(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""
