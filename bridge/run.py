"""sbridge-run: the interpreter of a job script that runs in a sandbox.

Runs as the job's user, in the job's step, without credentials, with the standard library
only. It hands its own open files to the node's agent and stays as the process that Slurm
knows: it passes signals on and ends as the script ended.

1. connecting   no agent answers: say so and try again
2. waiting      the agent says why there is no sandbox yet; a signal ends this process
3. entered      the keeper holds the script; signals are passed on
4. ended        exit, or die of the signal, as the script did
A job that needs no sandbox (runtime `host`) leaves 2 by becoming its interpreter.
"""

# Not `os`, `signal` and `socket`, which wrap these: each task of a step pays for their import.
import _signal as signal  # type: ignore[import-not-found]
import _socket
import fcntl
import posix
import select
import sys
import time

from bridge import batch_script, task, wire

AGENT_TIMEOUT_S = 300.0
_RETRY_S = 0.25
_WITNESS_S = 0.05
_FATAL_EXIT_CODE = 1
_AWAY = b"the sbridge agent of this node went away; waiting for its return"
_BUSY = b"; waiting for the sbridge agent of this node"
_KEEPER_GONE = "the process that held this step inside its sandbox was killed from outside"
_SANDBOX_GONE = b"the sandbox of this job ended, and everything in it: "
_WHY_TIMEOUT_S = 5.0
_SEE_OFF_MS = 1000
_MOST_OPEN = wire.MAX_DESCRIPTORS - 2
_TOO_MANY_OPEN = (
    "this step has {count} open files, and {most} can go into a sandbox at most; close those that "
    "it does not need, as with `exec 9>&-`, before it begins"
)
_UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def main(run_dir: str) -> int:
    """Run the interpreter and script of the command line in the job's sandbox.

    `run_dir` is the agent's; returns the exit code.
    """
    if len(sys.argv) < 2 or (len(sys.argv) == 2 and sys.argv[1].startswith(task.MARK)):
        return _fail("usage: sbridge-run INTERPRETER [SCRIPT [ARGUMENT…]]")
    _take_name()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    environment = _environment()
    node = environment.get(b"SLURMD_NODENAME", b"")
    if not node or not environment.get(b"SLURM_JOB_ID"):
        return _fail("not inside a Slurm job (SLURM_JOB_ID and SLURMD_NODENAME are not set)")
    step = Step(b"/".join((_encoded(run_dir), node, b"agent.sock")), environment)
    return step.run()


class Step:
    """The conversation of one step with the agent and then its keeper."""

    def __init__(self, address: bytes, environment: dict[bytes, bytes]) -> None:
        self._address = address
        self._environment = environment
        first, *rest = map(_encoded, sys.argv[1:])
        self._directory = task.directory_of(first)
        self._is_task = self._directory is not None
        self._argv = rest if self._is_task else [*batch_script.interpreter_argv(first), *rest]
        self._said = b""
        self._files: list[int] = []  # the step's own
        self._witness = Witness()
        self._deadline = time.monotonic() + AGENT_TIMEOUT_S  # later once an agent says something

    def run(self) -> int:
        """Go through the states; returns the exit code, or does not return."""
        request, descriptors = self._request()  # before an agent is there to wait for it
        if (count := len(self._files)) > _MOST_OPEN:
            return _fail(_TOO_MANY_OPEN.format(count=count, most=_MOST_OPEN))
        while time.monotonic() < self._deadline:
            connection = self._connect()
            if connection is None:
                break
            answer = self._converse(connection, request, descriptors)
            if answer is not None and answer.kind == "entered":
                return self._accompany(connection)
            connection.close()
            self._witness.dismiss()
            if answer is not None and answer.kind != "busy":
                return self._obey(answer)
            self._say(answer.first("text") + _BUSY if answer else _AWAY)
            time.sleep(_RETRY_S)
        where = _decoded(self._address)
        return _fail(f"no sbridge agent answers at {where} since {AGENT_TIMEOUT_S:.0f} s")

    def _connect(self) -> _socket.socket | None:
        while time.monotonic() < self._deadline:
            connection = _above_stdio(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
            try:
                connection.connect(self._address)
                return connection
            except OSError:
                connection.close()
                self._say(b"waiting for the sbridge agent of this node")
                time.sleep(_RETRY_S)
        return None

    def _converse(
        self, connection: _socket.socket, request: wire.Message, descriptors: list[int]
    ) -> wire.Message | None:
        """Ask to enter; returns the agent's decision, None when it went away before."""
        try:
            try:
                wire.send(connection, request, descriptors)
            except (BrokenPipeError, ConnectionResetError):
                return self._wait(connection)  # the agent may have said why it would not listen
            self._witness.start(connection, self._files)  # while the agent works
            return self._wait(connection)
        except (OSError, wire.WireError):
            return None

    def _request(self) -> tuple[wire.Message, list[int]]:
        """Return the message that asks to enter, and the descriptors that go with it."""
        self._files = _inherited_descriptors()
        numbers = list(self._files)
        fields: wire.Fields = [("fd", b"%d" % number) for number in numbers]
        fields += [("arg", argument) for argument in self._argv]
        fields += [("env", key + b"=" + value) for key, value in self._environment.items()]
        fields.append(("cwd", self._directory or _working_directory()))
        fields.append(("runner", _absolute(_encoded(sys.argv[0]))))
        fields += [("ignored", b"%d" % number) for number in _ignored_before_python()]
        if self._is_task:
            fields.append(("task", b"1"))
        script = None if self._is_task else _open_script(self._argv)
        if script is not None:
            numbers.append(script)
            fields.append(("script", b"1"))
            if not batch_script.has_command(script):
                fields.append(("idle", b"1"))
        return wire.Message("enter", fields), numbers

    def _wait(self, connection: _socket.socket) -> wire.Message | None:
        while True:
            message, _ = wire.receive(connection)
            if message is not None:
                self._deadline = time.monotonic() + AGENT_TIMEOUT_S
            if message is None or message.kind != "waiting":
                return message
            self._say(message.first("text"))

    def _obey(self, answer: wire.Message) -> int:
        if answer.kind == "exec":
            return self._become(answer)
        text = answer.text("text") or f"unexpected answer {answer.kind!r} of the agent"
        return _fail(text, int(answer.first("exit_code") or _FATAL_EXIT_CODE))

    def _become(self, answer: wire.Message) -> int:
        from bridge import stand_in  # only here

        for pair in answer.every("env"):
            key, _, value = pair.partition(b"=")
            self._environment[key] = value
        self._go_to(answer.first("cwd"))
        file = answer.first("file")
        try:
            argv = answer.every("arg") + self._argv_for(file)
        except stand_in.UnrunnableError as error:
            return _fail(str(error), error.exit_code)
        for number in _IGNORED_BY_PYTHON - _ignored_before_python():
            signal.signal(number, signal.SIG_DFL)
        try:
            posix.execve(argv[0], argv, self._environment)
        except OSError as error:
            if file:
                refusal = stand_in.cannot_start(file, argv, error)
                return _fail(str(refusal), refusal.exit_code)
            # As slurmstepd does when it cannot start a script: the errno is the exit code.
            return _fail(f"{_decoded(argv[0])}: {error.strerror}", error.errno or _FATAL_EXIT_CODE)

    def _argv_for(self, file: bytes) -> list[bytes]:
        """Return what to run: `file`, if the agent names one because the script is idle."""
        if not file:
            return self._argv
        from bridge import stand_in

        return stand_in.substitute(self._argv, file, self._environment)

    def _go_to(self, directory: bytes) -> None:
        if not directory:
            return
        try:
            posix.chdir(directory)
        except OSError as error:
            reason = _encoded(error.strerror or "")
            place = _working_directory()
            self._say(b"working directory %s: %s; using %s" % (directory, reason, place))

    def _accompany(self, connection: _socket.socket) -> int:
        if _release_terminal():
            self._witness.dismiss()  # it saw the hang-up, which is no signal for the script
            self._witness.start(connection, self._files)
        wakeup = _catch_signals()
        try:
            # The keeper starts the script only now, when no signal can be lost any more.
            wire.send(connection, wire.Message("go", [("witness", b"%d" % self._witness.pid)]))
            return self._pass_signals_on(connection, wakeup)
        except (OSError, wire.WireError):
            return self._end_without_keeper()
        finally:
            self._witness.dismiss()

    def _end_without_keeper(self) -> int:
        """End as if the script had been killed; who did it knows the agent."""
        self._witness.dismiss()
        why = self._why_lost()
        if not why:
            return _fail(_KEEPER_GONE)
        _print(_SANDBOX_GONE + why)
        return _end(signal.SIGKILL)

    def _why_lost(self) -> bytes:
        """Ask the agent why the sandbox ended; empty when it is there, or nobody answers."""
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(_WHY_TIMEOUT_S)
        try:
            connection.connect(self._address)
            job = b"SLURM_JOB_ID=" + self._environment[b"SLURM_JOB_ID"]
            wire.send(connection, wire.Message("why", [("env", job)]))
            answer, _ = wire.receive(connection)
        except (OSError, wire.WireError):
            return b""
        finally:
            connection.close()
        return answer.first("text") if answer else b""

    def _pass_signals_on(self, connection: _socket.socket, wakeup: int) -> int:
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        poll.register(connection, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wakeup in ready:
                for byte in posix.read(wakeup, 4096):
                    self._pass_on(connection, byte)
            if connection.fileno() in ready:
                message, keeper = wire.receive(connection)
                if message is None:
                    return self._end_without_keeper()
                if message.kind == "exited":
                    self._witness.dismiss()
                    _see_off(keeper)
                    if message.first("lost"):
                        _print(_SANDBOX_GONE + (self._why_lost() or b"nobody tells why"))
                    return _end(int(message.first("status")))
                self._say(message.first("text"))

    def _pass_on(self, connection: _socket.socket, number: int) -> None:
        fields: wire.Fields = [("number", b"%d" % number)]
        fields.append(("group", b"1" if self._witness.saw(number) else b""))
        try:
            wire.send(connection, wire.Message("signal", fields))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the script has ended; the keeper's last word is still to be read

    def _say(self, text: bytes) -> None:
        if text and text != self._said:
            self._said = text
            _print(text)


class Witness:
    """A child that does nothing but see signals.

    Slurm signals the script's process alone (`scancel -b`), or its process group
    (`scancel -f`), or all descendants (proctrack/linuxproc). In the last two cases the
    witness gets the signal too, which is the only way to tell.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._seen: list[int] = []

    def start(self, connection: _socket.socket, files: list[int]) -> None:
        """Fork; the child lets go of `connection` and of `files`, the step's own.

        Whoever reads those must see their end with the script's.
        """
        self._seen.clear()
        self._reports, reports = posix.pipe2(posix.O_CLOEXEC)
        alive, self._alive = posix.pipe2(posix.O_CLOEXEC)
        self.pid = posix.fork()
        if self.pid == 0:
            try:
                connection.close()
                posix.close(self._alive)
                for number in files:
                    posix.close(number)
                self._watch(reports, alive)
            finally:
                posix._exit(0)
        posix.close(reports)
        posix.close(alive)

    @staticmethod
    def _watch(reports: int, alive: int) -> None:
        wakeup = _catch_signals()
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        poll.register(alive, select.POLLIN)
        while alive not in {descriptor for descriptor, _ in poll.poll()}:
            posix.write(reports, posix.read(wakeup, 4096))

    def saw(self, number: int) -> bool:
        """Whether the witness got signal `number` as well, now or within a few milliseconds."""
        deadline = time.monotonic() + _WITNESS_S
        while number not in self._seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reports], [], [], left)[0]:
                return False
            report = posix.read(self._reports, 4096)
            if not report:
                return False
            self._seen += report
        self._seen.remove(number)
        return True

    def dismiss(self) -> None:
        """End the witness; twice is fine."""
        if self.pid:
            posix.kill(self.pid, signal.SIGKILL)
            posix.waitpid(self.pid, 0)
            self.pid = 0
            posix.close(self._reports)
            posix.close(self._alive)


def _take_name() -> None:
    """Be called sbridge-run by ps(1) and the kernel's log: bridge.forerunner executes a python."""
    try:
        with open("/proc/self/comm", "wb") as file:
            file.write(b"sbridge-run")
    except OSError:
        pass  # it goes by another name then


def _ignored_before_python() -> set[int]:
    """Return which of the two signals were ignored already, as bridge.forerunner saw it."""
    told = sys._xoptions.get("ignored", "")
    return {int(number) for number in str(told).split(",") if number} & _IGNORED_BY_PYTHON


def _catch_signals() -> int:
    """Have every signal reported on the returned descriptor instead of ending this process.

    Those that were blocked, too: the script has them blocked itself.
    """
    wakeup, writer = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in signal.valid_signals() - _UNCATCHABLE:
        signal.signal(number, _noted)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wakeup


def _see_off(keeper: list[int]) -> None:
    """Wait for the end of the keeper, whose pidfd this is: it is in this step's cgroup.

    slurmstepd sleeps for a second when it finds a process left in there.
    """
    poll = select.poll()
    for descriptor in keeper:
        poll.register(descriptor, select.POLLIN)
        poll.poll(_SEE_OFF_MS)


def _release_terminal() -> bool:
    """Give up the terminal of the session that this process leads, for the script to take it.

    False when it leads none, or its stdin is not that terminal (`srun --pty` makes both so). The
    kernel hangs up on the session, this process and its witness, which must not end of it.
    """
    if posix.getsid(0) != posix.getpid() or not posix.isatty(0):
        return False
    import termios  # only here

    for number in (signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    try:
        fcntl.ioctl(0, termios.TIOCNOTTY)
    except OSError:
        return False
    return True


def _environment() -> dict[bytes, bytes]:
    """Return the environment as it was given; posix.environ may have been added to by Python."""
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    return {
        key: value for key, equals, value in (entry.partition(b"=") for entry in entries) if equals
    }


def _inherited_descriptors() -> list[int]:
    numbers = []
    for name in posix.listdir("/proc/self/fd"):
        try:
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                numbers.append(int(name))
        except OSError:
            continue  # the listing's own descriptor
    return sorted(numbers)


def _above_stdio(connection: _socket.socket) -> _socket.socket:
    """Keep 0, 1 and 2 closed for the script if the step has them closed."""
    if connection.fileno() > 2:
        return connection
    number = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    connection.close()
    return _socket.socket(fileno=number)


def _encoded(text: str) -> bytes:
    """Return the bytes that Python made this text of (os.fsencode)."""
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def _decoded(data: bytes) -> str:
    return data.decode(sys.getfilesystemencoding(), "surrogateescape")


def _absolute(path: bytes) -> bytes:
    return path if path.startswith(b"/") else _working_directory() + b"/" + path


def _working_directory() -> bytes:
    try:
        return posix.getcwdb()
    except OSError:
        return b"/"


def _open_script(argv: list[bytes]) -> int | None:
    """Open the batch script, so that the keeper can show it inside without reading a path."""
    index = batch_script.position(argv)
    try:
        return None if index is None else posix.open(argv[index], posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None


def _noted(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor tells the loop."""


def _end(status: int) -> int:
    """Return the exit code of a wait status, or die of its signal."""
    if not posix.WIFSIGNALED(status):
        return posix.waitstatus_to_exitcode(status)
    number = posix.WTERMSIG(status)
    import resource  # only here

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core was the script's to dump
    if number not in _UNCATCHABLE:
        signal.signal(number, signal.SIG_DFL)
    posix.kill(posix.getpid(), number)
    return 128 + number


def _fail(text: str, exit_code: int = _FATAL_EXIT_CODE) -> int:
    _print(_encoded(text))
    return exit_code


def _print(text: bytes) -> None:
    try:
        posix.write(2, b"sbridge: " + text + b"\n")
    except OSError:
        pass  # the step has no stderr
