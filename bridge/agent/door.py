"""The door: by which a task's processes inside a sandbox ask for Slurm commands on the node.

<run>/steps/<name>/, seen inside, read-only:
door     a named pipe; the script of bridge.agent.shim writes lines of fewer than PIPE_BUF bytes
         run <pid> <waiter's pid> <number of arguments> <name of the command>
         signal <pid> <name of the signal>
ended/   <pid>: how its command ended; there from the first command on

Most steps run no such command, so little is made for each.

1. asked     "run" came: the two processes are held by pidfd, a child becomes the command
2. running   signals are passed on; when the asking process is gone, the command is killed
3. ended     ended/<pid> is written and the waiter ended, which wakes the asking process
4. gone      the asking process has read it and ended

Everything that comes through the door is the user's word. A process is looked up by a child in
the sandbox's pid namespace, so its pid can name no process but one of the sandbox; both must be
wholly the user's. What does not fit is passed over.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bridge import kernel, wire
from bridge.agent import shim
from bridge.agent.entry import Entry
from bridge.slurm import errand

_MOST_COMMANDS = 1024
_MOST_BYTES = 512
_SIGNALS = {name: signal.Signals[f"SIG{name}"] for name in (*shim.SIGNALS, *shim.STOPPING)}


@dataclass
class _Command:
    """One command: who asked and who waits (pidfds), and the child that became it (0: ended)."""

    name: str
    asking: int
    waiter: int
    child: int = 0


@dataclass
class Door:
    """One task's door, held by its keeper; `poll` is the keeper's own."""

    folder: str
    entry: Entry
    poll: "select.poll"
    _commands: dict[int, _Command] = field(default_factory=dict)
    _buffer: bytes = b""
    _is_closed: bool = False

    def __post_init__(self) -> None:
        self._owner = self.entry.heritage.owner
        self._inside = os.open("ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.entry.init)
        self._outside = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC  # readers never see its end
        try:
            self._make()
            self._door = os.open(f"{self.folder}/door", flags)
        except OSError:
            wire.close_all([self._inside, self._outside])
            raise
        self.poll.register(self._door, select.POLLIN)

    def serve(self, ready: Iterable[int]) -> None:
        """Handle what the keeper's poll found ready."""
        for descriptor in set(ready) & {self._door, *self._by_asking()}:
            if descriptor == self._door:
                self._take_lines()
            else:
                self._forget(descriptor)

    def collect(self) -> None:
        """Handle the ends of commands, after a SIGCHLD."""
        for pid, command in self._commands.items():
            if not command.child:
                continue
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(command.child, os.WNOHANG)
                if ended:
                    command.child = 0
                    self._tell_end(pid, command, _verdict(status))

    def close(self) -> None:
        """End all commands, and remove what the sandbox sees of the door; twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        for command in self._commands.values():
            _end(command, with_its_own=True)
            self.poll.unregister(command.asking)
            wire.close_all([command.asking, command.waiter])
        self._commands.clear()
        self.poll.unregister(self._door)
        wire.close_all([self._door, self._inside, self._outside])
        try:
            os.unlink(f"{self.folder}/door")
            os.rmdir(self.folder)
        except OSError:  # it holds more
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self) -> None:
        try:
            os.mkdir(self.folder)
        except FileExistsError:  # of a keeper with the same name
            shutil.rmtree(self.folder)
            os.mkdir(self.folder)
        Path(self.folder).chmod(0o755)  # whatever the umask
        path = f"{self.folder}/door"
        os.mkfifo(path, 0o200)
        os.chown(path, self._owner.uids[0], self._owner.gids[0])  # no stranger speaks for him

    def _by_asking(self) -> dict[int, int]:
        return {command.asking: pid for pid, command in self._commands.items()}

    def _take_lines(self) -> None:
        *lines, rest = (self._buffer + os.read(self._door, 1 << 16)).split(b"\n")
        self._buffer = rest if len(rest) <= _MOST_BYTES else b""
        for line in lines:
            words = line.decode("ascii", "replace").split(" ")
            if words[0] == "run" and len(words) == 5 and all(map(_is_number, words[1:4])):
                pid, waiter, count = map(int, words[1:4])
                self._run(pid, waiter, count, words[4])
            elif words[0] == "signal" and len(words) == 3 and _is_number(words[1]):
                command = self._commands.get(int(words[1]))
                if command and words[2] in _SIGNALS:
                    _kill(command.child, _SIGNALS[words[2]])

    def _run(self, pid: int, waiter: int, count: int, name: str) -> None:
        if name not in shim.COMMANDS:
            return
        held = self._look_up(pid, waiter)
        if held is None:
            return
        if pid in self._commands:  # another one waits for the same command
            os.close(held[0])
            self._change_waiter(self._commands[pid], held[1])
            return
        command = _Command(name, *held)
        self._commands[pid] = command
        self.poll.register(command.asking, select.POLLIN)
        try:
            if len(self._commands) > _MOST_COMMANDS:
                self._tell_end(pid, command, f"say more than {_MOST_COMMANDS} commands at a time")
            else:
                command.child = self._start(command, count)
        except OSError as error:
            self._tell_end(pid, command, f"say the node cannot start it: {error.strerror}")

    def _change_waiter(self, command: _Command, waiter: int) -> None:
        os.close(command.waiter)
        command.waiter = waiter
        if not command.child:  # its end was told meanwhile
            self._wake(command)

    def _start(self, command: _Command, count: int) -> int:
        keeper = os.getpid()
        child = os.fork()
        if child:
            return child
        try:
            message = self.entry.message
            errand.become(
                errand.Errand(
                    command.name,
                    command.asking,
                    count,
                    self._owner,
                    message.text("bin_dir"),
                    message.text("runner"),
                    message.text("job"),
                    self.entry.init,
                    keeper,
                )
            )
        finally:
            os._exit(1)

    def _look_up(self, *pids: int) -> list[int] | None:
        """Return pidfds of these processes of the sandbox, if all are the user's."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = self._fork_inside()
            if child == 0:
                try:
                    wire.send(theirs, wire.Message("held"), [os.pidfd_open(pid) for pid in pids])
                finally:
                    os._exit(0)
            theirs.close()
            _, held = wire.receive(ours)
            os.waitpid(child, 0)
        if len(held) == len(pids) and all(map(self._is_the_users, held)):
            return held
        wire.close_all(held)
        return None

    def _fork_inside(self) -> int:
        kernel.setns(self._inside, kernel.CLONE_NEWPID)
        try:
            child = os.fork()
        except BaseException:
            kernel.setns(self._outside, kernel.CLONE_NEWPID)
            raise
        if child:
            kernel.setns(self._outside, kernel.CLONE_NEWPID)
        return child

    def _is_the_users(self, held: int) -> bool:
        try:
            with kernel.process_of(held) as process:
                found = kernel.identity(process)
        except OSError:
            return False
        return set(found.uids) == set(self._owner.uids)

    def _tell_end(self, pid: int, command: _Command, verdict: str) -> None:
        draft = Path(self.folder) / "ended" / ".new"
        with contextlib.suppress(OSError):  # the asking process says that it cannot read it
            draft.parent.mkdir(exist_ok=True)
            draft.parent.chmod(0o755)
            draft.write_text(f"{verdict}\n")
            draft.chmod(0o444)
            draft.rename(draft.with_name(str(pid)))
        self._wake(command)

    def _wake(self, command: _Command) -> None:
        """End the waiter, for which the asking process waits."""
        # A shell says nothing of a child that died of SIGPIPE. One that ignores it was not started
        # by the program before the shim, which does not let it be ignored.
        for number in (signal.SIGPIPE, signal.SIGKILL):
            if number == signal.SIGKILL or not self._ignores(command.waiter, number):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(command.waiter, number)
                return

    @staticmethod
    def _ignores(held: int, number: int) -> bool:
        try:
            with kernel.process_of(held) as process:
                return number in kernel.identity(process).ignored
        except OSError:
            return False

    def _forget(self, asking: int) -> None:
        pid = self._by_asking()[asking]
        command = self._commands[pid]
        _end(command)  # natively it would have been the command that was killed
        del self._commands[pid]
        self.poll.unregister(asking)
        os.close(asking)
        os.close(command.waiter)
        with contextlib.suppress(OSError):
            os.unlink(f"{self.folder}/ended/{pid}")


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 9


def _end(command: _Command, *, with_its_own: bool = False) -> None:
    """Kill the command and collect it: the keeper may outlive this door for days.

    A child of srun outlives it and has Slurm kill its step. `with_its_own` ends that child, too,
    as slurmstepd does when a script ends: then the step ends as Slurm ends what is left of a job.
    """
    if command.child:
        if with_its_own:
            with contextlib.suppress(ProcessLookupError):  # it leads no group yet
                os.killpg(command.child, signal.SIGKILL)
        _kill(command.child, signal.SIGKILL)
        os.waitpid(command.child, 0)


def _kill(child: int, number: int) -> None:
    if child:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def _verdict(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit {os.WEXITSTATUS(status)}"
