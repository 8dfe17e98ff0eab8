"""The keeper: holds one entered step; a child of the forge, root, outside the sandbox.

1. forks; the child joins the sandbox's namespaces and becomes the user for good
2. meanwhile takes the step's place, the child with it: its cgroups, CPU affinity and nice
   value (what a child of sbridge-run would have inherited), read from /proc/<sbridge-run>;
   joining a cgroup after some idle time costs ten milliseconds, hence at the same time
3. on sbridge-run's "go" has the child exec the interpreter
4. passes signals on, each to the same processes as natively and once
5. reports the wait status and ends

Rule: once a process of ours is inside the sandbox's file system it imports nothing and
opens nothing as root; everything it needs is loaded and open before.

Signals. Slurm knows sbridge-run only, which tells what it got and whether its whole process
group got it. Natively `scancel -b` reaches the script's process, `scancel -f` its process
group; without cgroups (proctrack/linuxproc) a signal for the step reaches every descendant.
"""

import errno
import fcntl
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass

from bridge import batch_script, kernel, wire

_NAMESPACES = (
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("net", kernel.CLONE_NEWNET),
    ("pid", kernel.CLONE_NEWPID),
    ("mnt", kernel.CLONE_NEWNS),
)
_SHELLS = (b"bash", b"sh", b"dash", b"ash", b"ksh", b"zsh")
_FALLBACK = b"/bin/sh"
_UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
_HIGH_DESCRIPTOR = 512
_SANDBOX_DEATH_S = 0.5
_SCRIPT_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One step that enters: what the agent decided (`message`) and the descriptors it passes.

    `connection` to sbridge-run, `caller` and `init` the /proc folders of sbridge-run and of
    the sandbox's first process, `script` the batch script or None, `step` the step's own
    open files as (number there, descriptor here).
    """

    message: wire.Message
    connection: socket.socket
    caller: int
    init: int
    script: int | None
    step: list[tuple[int, int]]

    @classmethod
    def of(cls, message: wire.Message, descriptors: list[int]) -> "Entry":
        """Take the descriptors apart, in the order in which the agent sends them."""
        rest = list(descriptors)
        connection = socket.socket(fileno=rest.pop(0))
        connection.setblocking(True)  # the agent had a time limit on it, and that is shared
        caller, init = rest.pop(0), rest.pop(0)
        numbers = [int(number) for number in message.every("fd")]
        step = list(zip(numbers, rest, strict=False))
        script = rest[len(numbers)] if len(rest) > len(numbers) else None
        return cls(message, connection, caller, init, script, step)


def enter(message: wire.Message, descriptors: list[int]) -> None:
    """Handle the agent's `enter`: run the step to its end; returns when it is reported."""
    entry = Entry.of(message, descriptors)
    try:
        _Keeper(entry).run()
    except OSError as error:
        _report(entry.connection, "failed", f"the sandbox could not be entered: {error}")


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

    def run(self) -> None:
        self._check_init()
        namespaces = self._open_namespaces()
        self._spool_script()
        wakeup = _catch_signals()
        trouble, trouble_writer = os.pipe2(os.O_CLOEXEC)
        permission, permit = os.pipe2(os.O_CLOEXEC)
        ready, ready_writer = os.pipe2(os.O_CLOEXEC)
        child = _Child(self._entry, namespaces, trouble_writer, permission, permit, ready_writer)
        self._child = child.start()
        for descriptor in (trouble_writer, permission, ready_writer, *(d for d, _ in namespaces)):
            os.close(descriptor)
        for _, descriptor in self._entry.step:
            os.close(descriptor)
        wire.send(self._connection, wire.Message("entered"))
        self._inherit()
        go, _ = wire.receive(self._connection)
        if go is None or go.kind != "go" or not os.read(ready, 1):
            return
        os.write(permit, b"!")
        try:
            self._hold(wakeup, trouble)
        except BaseException:
            self._kill_everything(signal.SIGKILL)  # no script without its keeper
            raise

    def _check_init(self) -> None:
        if kernel.start_ticks(self._entry.init) != int(self._entry.message.first("init_start")):
            raise OSError(errno.ESRCH, "the sandbox's first process is gone")

    def _open_namespaces(self) -> list[tuple[int, int]]:
        flags = os.O_RDONLY | os.O_CLOEXEC
        wanted = self._entry.message.every("namespace")
        return [
            (os.open(f"ns/{name}", flags, dir_fd=self._entry.init), kind)
            for name, kind in _NAMESPACES
            if name.encode() in wanted
        ]

    def _inherit(self) -> None:
        caller = self._entry.caller
        home = caller if self._in_step_cgroup else self._entry.init
        affinity = os.sched_getaffinity(int(self._entry.message.first("caller_pid")))
        kernel.move_to_cgroups([self._child, os.getpid()], kernel.cgroup_paths(home))
        for pid in (self._child, 0):
            os.sched_setaffinity(pid, affinity)
            os.setpriority(os.PRIO_PROCESS, pid, kernel.nice(caller))

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
        while size < _SCRIPT_LIMIT_BYTES:
            chunk = os.pread(self._entry.script, 1 << 20, size)
            if not chunk:
                break
            size += os.write(copy, chunk)
        os.fchown(copy, int(self._entry.message.first("uid")), -1)

    def _hold(self, wakeup: int, trouble: int) -> None:
        poll = select.poll()
        for descriptor in (wakeup, trouble, self._connection.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if trouble in ready and not self._tell_trouble(trouble):
                poll.unregister(trouble)
            if wakeup in ready and self._has_ended(wakeup):
                return
            if self._connection.fileno() in ready and not self._take_message():
                poll.unregister(self._connection)

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

    def _has_ended(self, wakeup: int) -> bool:
        """Report the child's end, if it is that which woke us."""
        os.read(wakeup, 4096)
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
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
        for pid in _descendants(self._child):
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
            wire.send(self._connection, wire.Message("exited", fields))
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
    for number in signal.valid_signals() - _UNCATCHABLE:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _noted)
    return wakeup


def _noted(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""


def _descendants(root: int) -> list[int]:
    """Return `root` and all processes that descend from it or share its session."""
    parents: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        parents[int(name)] = (int(stat[1]), int(stat[3]))
    found = {root}
    size = 0
    while len(found) > size:
        size = len(found)
        found |= {
            pid for pid, (parent, session) in parents.items() if parent in found or session == root
        }
    return sorted(found)


class _Child:
    """The process that becomes the user's script."""

    def __init__(
        self,
        entry: Entry,
        namespaces: list[tuple[int, int]],
        trouble: int,
        permission: int,
        permit: int,
        ready: int,
    ) -> None:
        self._message = entry.message
        self._namespaces = namespaces
        self._trouble = trouble
        self._permission = permission
        self._permit = permit
        self._ready = ready
        self._step = entry.step
        # All that needs a path, a codec or a module of the node is prepared out here.
        self._identity = kernel.identity(entry.caller)
        self._limits = kernel.limits(entry.caller)
        self._argv = entry.message.every("arg")
        self._file = entry.message.first("file")
        self._environment = {
            key: value
            for key, _, value in (pair.partition(b"=") for pair in entry.message.every("env"))
        }
        self._directories = entry.message.every("cwd")

    def start(self) -> int:
        """Fork and return the child's pid.

        The pid namespace holds for children only, so it is joined before.
        """
        uid = int(self._message.first("uid"))
        if set(self._identity.uids) != {uid}:
            raise OSError(errno.EPERM, "the calling process is not the job's owner")
        for descriptor, kind in self._namespaces:
            if kind == kernel.CLONE_NEWPID:
                kernel.setns(descriptor, kind)
        pid = os.fork()
        if pid == 0:
            try:
                self._become_script()
            except OSError as error:
                self._say(f"cannot start the job in its sandbox: {error}".encode(errors="replace"))
                os._exit(error.errno or 1)
            except batch_script.UnrunnableError as error:
                self._say(str(error).encode(errors="replace"))
                os._exit(error.exit_code)
            except BaseException as error:  # noqa: BLE001 - no second keeper may run on
                self._say(
                    f"cannot start the job in its sandbox: {error!r}".encode(errors="replace")
                )
            finally:
                os._exit(1)
        return pid

    def _become_script(self) -> None:
        os.close(self._permit)  # else nobody's death would be noticed below
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - _UNCATCHABLE:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.write(self._ready, b"!")  # from here on signals find it as they should
        sys.meta_path.clear()
        sys.path.clear()
        self._place_descriptors()
        for kind, (soft, hard) in self._limits.items():
            kernel.set_limit(kind, soft, hard)
        for descriptor, kind in self._namespaces:
            if kind != kernel.CLONE_NEWPID:
                kernel.setns(descriptor, kind)
        kernel.renounce_privileges(
            self._identity.uids[0], self._identity.gids[0], list(self._identity.groups)
        )
        os.umask(self._identity.umask)
        if not os.read(self._permission, 1):
            os._exit(1)  # the keeper is gone
        self._change_directory()
        self._exec()

    def _change_directory(self) -> None:
        refused = b""
        for directory in self._directories:
            try:
                os.chdir(directory)
            except OSError as error:
                refused = refused or b"%s: %s" % (directory, str(error.strerror).encode())
                continue
            break
        else:
            os.chdir(b"/")
        if refused:
            place = os.getcwdb()
            self._say(b"working directory %s in the sandbox; using %s" % (refused, place))

    def _place_descriptors(self) -> None:
        parked = [
            (number, fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR))
            for number, descriptor in self._step
        ]
        self._trouble = fcntl.fcntl(self._trouble, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
        self._permission = fcntl.fcntl(self._permission, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
        self._namespaces = [
            (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR), kind)
            for descriptor, kind in self._namespaces
        ]
        wanted = {number for number, _ in self._step}
        for number in {0, 1, 2} - wanted:
            try:
                os.close(number)
            except OSError:
                pass
        for number, descriptor in parked:
            os.dup2(descriptor, number, inheritable=True)

    def _exec(self) -> None:
        if not self._file:
            return self._exec_or_fall_back(self._argv)
        argv = batch_script.substitute(self._argv, self._file, self._environment, is_inside=True)
        try:
            if argv[0] == self._file:  # a program, whatever it is called
                os.execve(argv[0], argv, self._environment)
            self._exec_or_fall_back(argv)
        except OSError as error:
            raise batch_script.cannot_start(self._file, argv, error) from None

    def _exec_or_fall_back(self, argv: list[bytes]) -> None:
        if not self._lacks_shell(argv):
            try:
                os.execve(argv[0], argv, self._environment)
            except FileNotFoundError as error:
                if os.path.basename(argv[0]) not in _SHELLS:
                    raise self._missing(argv[0], error) from None
        fallback = _posix_shell(argv)
        named = b" ".join(argv[: len(argv) - len(fallback) + 1]) or argv[0]
        try:
            self._say(b"the image has no %s; using %s instead" % (named, _FALLBACK))
            os.execve(_FALLBACK, fallback, self._environment)
        except FileNotFoundError as error:
            raise self._missing(argv[0] + b" and no " + _FALLBACK, error) from None

    def _lacks_shell(self, argv: list[bytes]) -> bool:
        """Whether argv is `/usr/bin/env SHELL …` and the image lacks that shell."""
        if os.path.basename(argv[0]) != b"env" or len(argv) < 2 or argv[1] not in _SHELLS:
            return False
        return batch_script.find(argv[1], self._environment) is None

    def _missing(self, what: bytes, error: OSError) -> OSError:
        text = f"the image has no {os.fsdecode(what)}; name an image with it, or another #! line"
        return OSError(error.errno, text)

    def _say(self, text: bytes) -> None:
        os.write(self._trouble, text + b"\n")


def _posix_shell(argv: list[bytes]) -> list[bytes]:
    """Return argv for /bin/sh instead of a shell that the image lacks."""
    rest = argv[2:] if os.path.basename(argv[0]) == b"env" else argv[1:]
    if rest and rest[0].startswith(b"--"):
        rest = rest[1:]  # a bash-only option such as --login
    return [_FALLBACK, *rest]
