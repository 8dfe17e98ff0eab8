"""The process that becomes the user's script inside the sandbox: a child of the keeper.

Rule: once it is inside the sandbox's file system it imports nothing and opens nothing as root;
everything it needs is loaded and open before.
"""

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import signal
import sys

from bridge import kernel, stand_in
from bridge.agent import interpreter
from bridge.agent.entry import Entry
from bridge.agent.pmix import PmixFolder
from bridge.agent.terminal import Terminal

UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
_HIGH_DESCRIPTOR = 512
_TEMPORARY = b"/tmp"


class ScriptProcess:
    """The process that becomes the user's script: the keeper's child."""

    def __init__(
        self,
        entry: Entry,
        trouble: int,
        permission: int,
        permit: int,
        ready: int,
    ) -> None:
        self._message = entry.message
        self._namespaces = entry.namespaces
        self._trouble = trouble
        self._permission = permission
        self._permit = permit
        self._ready = ready
        self._step = entry.step
        self._terminal = Terminal.of(entry.step)
        self._pmix = PmixFolder.of(entry.message)
        # All that needs a path, a codec or a module of the node is prepared out here.
        self._identity = entry.heritage.owner
        self._limits = entry.heritage.limits
        self._rarities = entry.heritage.rarities
        self._argv = entry.message.every("arg")
        self._file = entry.message.first("file")
        self._is_task = bool(entry.message.first("task"))
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
            except interpreter.TaskError as error:
                self._say(str(error).encode(errors="surrogateescape"))
                os._exit(error.exit_code)
            except OSError as error:
                text = f"cannot start the job in its sandbox: {_told(error)}"
                self._say(text.encode(errors="replace"))
                os._exit(error.errno or 1)
            except stand_in.UnrunnableError as error:
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
        for number in _signal.valid_signals() - UNCATCHABLE:
            _signal.signal(number, _signal.SIG_DFL)
        for ignored in self._identity.ignored:
            _signal.signal(ignored, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._identity.blocked)
        self._lead()
        os.write(self._ready, b"!")  # from here on signals find it as they should
        sys.meta_path.clear()
        sys.path.clear()
        self._place_descriptors()
        for kind, (soft, hard) in self._limits.items():
            kernel.set_limit(kind, soft, hard)
        for descriptor, kind in self._namespaces:
            if kind != kernel.CLONE_NEWPID:
                kernel.setns(descriptor, kind)
        if self._terminal is not None:
            self._terminal.show()
        if self._pmix is not None:
            self._pmix.show()
        kernel.renounce_privileges(
            self._identity.uids[0], self._identity.gids[0], list(self._identity.groups)
        )
        os.umask(self._identity.umask)
        if not os.read(self._permission, 1):
            os._exit(1)  # the keeper is gone
        self._rarities.take()
        if self._terminal is not None:
            self._terminal.adopt()
        self._change_directory()
        self._find_temporary_folder()
        self._exec()

    def _lead(self) -> None:
        """Lead a process group as natively, and, with a terminal, the session that has it.

        The keeper leads the session otherwise, as slurmstepd does: SIGTSTP stops only groups
        whose parent's session is their own.
        """
        if self._terminal is not None:
            os.setsid()
        else:
            os.setpgid(0, 0)

    def _exec(self) -> None:
        if self._is_task:
            interpreter.execute_task(self._argv, self._environment)
        if not self._file:
            interpreter.execute(self._argv, self._environment, self._say)
        argv = stand_in.substitute(self._argv, self._file, self._environment, is_inside=True)
        try:
            if argv[0] == self._file:  # a program, whatever it is called
                os.execve(argv[0], argv, self._environment)
            interpreter.execute(argv, self._environment, self._say)
        except OSError as error:
            raise stand_in.cannot_start(self._file, argv, error) from None

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

    def _find_temporary_folder(self) -> None:
        """Have TMPDIR name a folder: it was chosen on the node, and images have their own."""
        asked = self._environment.get(b"TMPDIR")
        if asked and not os.path.isdir(asked) and os.path.isdir(_TEMPORARY):
            self._environment[b"TMPDIR"] = _TEMPORARY
            self._say(b"the sandbox has no folder %s (TMPDIR); using %s" % (asked, _TEMPORARY))

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
        if self._terminal is not None:
            self._terminal.place(_HIGH_DESCRIPTOR)
        if self._pmix is not None:
            self._pmix.place(_HIGH_DESCRIPTOR)
        wanted = {number for number, _ in self._step}
        for number in {0, 1, 2} - wanted:
            try:
                os.close(number)
            except OSError:
                pass
        for number, descriptor in parked:
            os.dup2(descriptor, number, inheritable=True)

    def _say(self, text: bytes) -> None:
        os.write(self._trouble, text + b"\n")


def _told(error: OSError) -> str:
    """Return the kernel's word, and about which file."""
    name = error.filename
    place = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else ""
    return f"{place}{error.strerror or error}"
