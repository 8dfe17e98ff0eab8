"""A Slurm command that a process in a sandbox asked for: this process becomes it, on the node.

It becomes the user for good, has the asking process's arguments, environment, open files,
limits and so on, and runs the node's own program in the node's own namespaces: what the user
could have run had the job no sandbox. Nothing of the image is run, and no path of the sandbox
is followed as root.
"""

import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import functools
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bridge import kernel, wire
from bridge.slurm import sbcast, srun

_HIGH_DESCRIPTOR = 512
_MOST_DESCRIPTORS = 256
_UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
_MOST_OF_A_FILE = 1 << 20
# The loader's variables name files of the image; they would be looked for on the node.
_LOADER = (b"LD_", b"GLIBC_TUNABLES")
KEPT = b"SBRIDGE_KEPT_"
JOB_NAME = b"SLURM_JOB_NAME"
_EXPORTS = (b"SLURM_EXPORT_ENV", b"SRUN_EXPORT_ENV")  # what srun reads as its --export
IGNORES_PIPE = b"SBRIDGE_IGNORES_PIPE"  # the asking process was started with SIGPIPE ignored
# This sandbox's own: tasks that enter get them anew, and other jobs shall not have them.
_OF_THE_SANDBOX = frozenset({b"SBRIDGE_DOOR", b"SBRIDGE_OUTPUTS", IGNORES_PIPE})
_OWN_FILE = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/(\d{1,4})")


class ErrandError(Exception):
    """The command cannot be run; the text is for the user."""


@dataclass(frozen=True)
class Errand:
    """What was asked: by whom (a pidfd), with how many arguments, and as which user.

    `bin_dir` is where the node's Slurm commands are, `runner` the path of sbridge-run, `job`
    the id of the job that the asking process belongs to, `init` the /proc folder of its
    sandbox's first process, `keeper` this process's parent.
    """

    name: str
    asking: int
    count: int
    owner: kernel.Identity
    bin_dir: str
    runner: str
    job: str
    init: int
    keeper: int


def become(errand: Errand) -> NoReturn:
    """Become the command; what is in the way goes to the asking process's stderr."""
    signal.set_wakeup_fd(-1)
    for number in _signal.valid_signals() - _UNCATCHABLE:
        _signal.signal(number, _signal.SIG_DFL)
    os.setsid()
    files: list[tuple[int, int]] = []
    try:
        with kernel.process_of(errand.asking) as process:
            files = _take_files(errand.asking, process)
            _Becoming(errand, process).run(files)
    except (ErrandError, srun.UnsupportedError, sbcast.UnsharedError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        stderr = dict(files).get(2)
        if stderr is not None:
            with contextlib.suppress(OSError):
                os.write(stderr, f"sbridge: {errand.name}: {text}\n".encode(errors="replace"))
    os._exit(1)


def _take_files(asking: int, process: int) -> list[tuple[int, int]]:
    """Return what the asking process would leave open to a program: number there, ours."""
    folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
    try:
        numbers = sorted(int(name) for name in os.listdir(folder))
    finally:
        os.close(folder)
    taken = []
    for number in numbers[:_MOST_DESCRIPTORS]:
        try:
            if number < _HIGH_DESCRIPTOR and not _closes_on_exec(process, number):
                ours = kernel.pidfd_getfd(asking, number)
                taken.append((number, fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)))
                os.close(ours)
        except OSError:
            continue  # closed meanwhile
    return taken


def _closes_on_exec(process: int, number: int) -> bool:
    for line in kernel.read(process, f"fdinfo/{number}").splitlines():
        key, _, value = line.partition(b":")
        if key == b"flags":
            return bool(int(value, 8) & os.O_CLOEXEC)
    return False


class _Becoming:
    def __init__(self, errand: Errand, process: int) -> None:
        self._errand = errand
        self._process = process
        words = kernel.read(process, "cmdline").split(b"\0")[:-1]
        self._arguments = [os.fsdecode(word) for word in words[len(words) - errand.count :]]
        entries = kernel.read(process, "environ").split(b"\0")
        self._environment = {
            key: value for key, equals, value in (e.partition(b"=") for e in entries) if equals
        }
        self._asking = kernel.identity(process)
        self._limits = kernel.limits(process)
        self._directory = os.readlink("cwd", dir_fd=process)
        self._cwd = os.open("cwd", os.O_PATH | os.O_CLOEXEC, dir_fd=process)
        self._mounts = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=errand.init)
        self._is_at_home = False
        self._opened: dict[str, int] = {}

    def run(self, files: list[tuple[int, int]]) -> NoReturn:
        """Take the asking process's place, renounce every privilege, and execute."""
        pid = kernel.pid_of(self._errand.asking)
        os.sched_setaffinity(0, os.sched_getaffinity(pid))
        os.setpriority(os.PRIO_PROCESS, 0, kernel.nice(self._process))
        with contextlib.suppress(OSError):  # a lower one, in a container
            score = kernel.read(self._process, "oom_score_adj")
            Path("/proc/self/oom_score_adj").write_bytes(score)
        self._open_inside(dict(files))
        files_limit = self._take_limits()
        self._renounce()
        kernel.die_with_parent()
        if os.getppid() != self._errand.keeper:
            os._exit(1)
        os.umask(self._asking.umask)
        self._go_to_directory()
        name, environment = self._errand.name, for_the_node(self._environment)
        if self._is_spreading:
            name, environment = "srun", sbcast.environment_of_step(environment)
        elif self._has_tasks_inside():
            environment = self._with_kept(environment)
        program = os.path.join(self._errand.bin_dir, name)
        argv = [name, *self._rewritten()]
        _place(files)
        kernel.set_limit(resource.RLIMIT_NOFILE, *files_limit)
        for number in self._ignored() - _UNCATCHABLE:
            signal.signal(number, signal.SIG_IGN)
        try:
            os.execve(program, [os.fsencode(word) for word in argv], environment)
        except OSError as error:
            raise ErrandError(f"the node has no {program}: {error.strerror}") from error

    def _ignored(self) -> set[int]:
        return {*self._asking.ignored, *([signal.SIGPIPE] * (IGNORES_PIPE in self._environment))}

    def _with_kept(self, environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return srun's environment, from which tasks get back what srun shall see otherwise."""
        result = dict(environment)
        if not srun.is_named(self._arguments):
            result |= kept_job_name(environment)
        if directory := result.pop(srun.WORKING_DIR, b""):
            result[KEPT + srun.WORKING_DIR] = directory
        path = os.fsdecode(result.get(srun.HOST_FILE, b""))
        if path and (shown := self._shown_to_srun(path)) != path:
            result |= {srun.HOST_FILE: shown.encode(), KEPT + srun.HOST_FILE: os.fsencode(path)}
        return result

    def _shown_to_srun(self, path: str) -> str:
        """Return by which path srun finds a file that was opened here, unless it is the node's."""
        if path not in self._opened or self._is_shared(path):
            return path
        return f"/proc/self/fd/{self._opened[path]}"

    def _take_limits(self) -> tuple[int, int]:
        """Take the asking process's limits but the returned one, which would be in the way here."""
        limits = dict(self._limits)
        of_files = limits.pop(resource.RLIMIT_NOFILE)
        for kind, (soft, hard) in limits.items():
            kernel.set_limit(kind, soft, hard)
        soft, hard = (n if n == resource.RLIM_INFINITY else max(n, 2048) for n in of_files)
        kernel.set_limit(resource.RLIMIT_NOFILE, soft, hard)
        return of_files

    def _renounce(self) -> None:
        owner = self._errand.owner
        kernel.renounce_privileges(owner.uids[0], owner.gids[0], list(owner.groups))

    def _go_to_directory(self) -> None:
        """Go where the asking process is, if the node has the same directory; else to /."""
        there = os.fstat(self._cwd)
        with contextlib.suppress(OSError):
            os.chdir(self._directory)
            here = os.stat(".")
            self._is_at_home = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        if not self._is_at_home:
            os.chdir("/")

    def _rewritten(self) -> list[str]:
        arguments = self._arguments
        if self._is_spreading:
            nodes = os.fsdecode(self._environment.get(b"SLURM_JOB_NUM_NODES", b""))
            directory, job = self._directory, self._errand.job
            arguments = sbcast.step(arguments, self._opened, directory, job, nodes)
        elif self._errand.name == "sbcast":
            return sbcast.shared(arguments, self._opened)
        elif not self._has_tasks_inside():
            return arguments
        tasks = srun.Tasks(
            self._errand.runner,
            self._directory,
            self._is_at_home,
            os.path.isdir,
            self._wrapped_programs,
            os.fsdecode(self._environment.get(srun.WORKING_DIR, b"")),
        )
        arguments = srun.with_exports(arguments, exported)
        return srun.wrap(srun.with_host_files(arguments, self._shown_to_srun), tasks)

    @functools.cached_property
    def _is_spreading(self) -> bool:
        """Whether this copies a file into the sandboxes of the very job."""
        return self._errand.name == "sbcast" and sbcast.is_for_sandboxes(
            self._arguments, self._is_shared
        )

    def _has_tasks_inside(self) -> bool:
        """Whether this starts tasks of the very job, which are to enter its sandboxes."""
        job = self._errand.job
        return self._errand.name == "srun" and (
            srun.job_of(self._arguments, self._environment) == job
        )

    def _open_inside(self, files: dict[int, int]) -> None:
        """Open the files that the command reads itself and that may be the sandbox's only."""
        for path in self._inside_paths():
            self._open_one(path, files)
        if self._has_tasks_inside():
            for path in srun.host_files(self._arguments, self._environment):
                with contextlib.suppress(ErrandError):  # srun will say so itself
                    self._open_one(path, files)

    def _open_one(self, path: str, files: dict[int, int]) -> None:
        own = _OWN_FILE.fullmatch(path)
        if own is None:
            ours = self._open(path)
        elif int(own[1] or 0) in files:
            ours = files[int(own[1] or 0)]
        else:
            return
        # Stays open for the command, which may read it by its name in /proc/self/fd.
        self._opened[path] = fcntl.fcntl(ours, fcntl.F_DUPFD, _HIGH_DESCRIPTOR)

    def _inside_paths(self) -> list[str]:
        if self._has_tasks_inside():
            return srun.program_files(self._arguments)
        return sbcast.paths_inside(self._arguments) if self._errand.name == "sbcast" else []

    def _is_shared(self, path: str) -> bool:
        """Whether what is open of the sandbox is at the same path on the node too."""
        there = os.fstat(self._opened[path])
        try:
            here = os.stat(os.path.join(self._directory, path))
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _open(self, path: str) -> int:
        """Open a path of the sandbox as the user, for reading."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if child == 0:
                self._send_opened(theirs, path)
            theirs.close()
            message, held = wire.receive(ours)
            os.waitpid(child, 0)
        if not held:
            reason = message.text("text") if message else "cannot be opened"
            raise ErrandError(f"{path}: {reason}")
        return held[0]

    def _send_opened(self, connection: socket.socket, path: str) -> NoReturn:
        sys.meta_path.clear()  # nothing of the sandbox may be imported
        sys.path.clear()
        try:
            kernel.setns(self._mounts, kernel.CLONE_NEWNS)
            self._renounce()
            kernel.die_with_parent()
            os.chdir(self._cwd)
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            wire.send(connection, wire.Message("opened"), [opened])
        except OSError as error:
            reason = str(error.strerror).encode()
            wire.send(connection, wire.Message("failed", [("text", reason)]))
        finally:
            os._exit(0)

    def _wrapped_programs(self, path: str, wrap: Callable[[str], str]) -> str:
        """Return the path of a --multi-prog file whose programs enter the sandbox."""
        with open(self._opened[path], "rb") as file:
            data = file.read(_MOST_OF_A_FILE)
        wrapped = os.fsencode(wrap(os.fsdecode(data)))
        copy = os.memfd_create("programs", 0)  # stays open for the command
        os.write(copy, wrapped)
        return f"/proc/self/fd/{fcntl.fcntl(copy, fcntl.F_DUPFD, _HIGH_DESCRIPTOR)}"


def for_the_node(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment with the loader's variables under names that start with `KEPT`."""
    hidden = {
        KEPT + key if key.startswith(_LOADER) else key: value
        for key, value in environment.items()
        if key not in _OF_THE_SANDBOX
    }
    exports = {key: hidden[key] for key in _EXPORTS if key in hidden}
    return hidden | {
        key: os.fsencode(exported(os.fsdecode(value))) for key, value in exports.items()
    }


def kept_job_name(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what gives tasks the job's name back: srun calls the job as we call its step."""
    return {KEPT + JOB_NAME: environment[JOB_NAME]} if JOB_NAME in environment else {}


def exported(value: str) -> str:
    """Return a value of srun's --export with the loader's variables called as srun knows them."""
    if "'" in value or '"' in value:
        return value  # commas part no names there
    words = (os.fsencode(word) for word in value.split(","))
    return os.fsdecode(
        b",".join(KEPT + word if word.startswith(_LOADER) else word for word in words)
    )


def _place(files: list[tuple[int, int]]) -> None:
    """Have exactly these files open below the numbers that are parked."""
    for number in {0, 1, 2} - {number for number, _ in files}:
        with contextlib.suppress(OSError):
            os.close(number)
    for number, ours in files:
        os.dup2(ours, number, inheritable=True)
