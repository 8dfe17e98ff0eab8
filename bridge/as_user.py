"""Run a function in a forked child that may become a user, and get its small result back.

A child that became a user has that user's uid, gid and supplementary groups (NSS), no
capability and none to be gained. Every child has a session of its own, umask 022 and `/` as
its folder; its result or error comes back as JSON over a pipe.

Meant for daemons with one thread, such as the watcher: a fork without exec copies only the
calling thread, so a lock that another thread holds would stay locked in the child for ever.

Nobody has to block on a child: put it into a selector (`fileno`), call `receive` when it is
readable, and `result` once `receive` said that it is complete. A child that hangs in the
kernel (a dead NAS) cannot be ended: `kill` asks for it, and the child stays in its owner's
selector until the kernel lets it go.
"""

import ctypes
import gc
import json
import os
import pwd
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bridge import kernel
from bridge.errors import PermanentError, SbridgeError, TemporaryError

_PR_SET_PDEATHSIG = 1
_RESET_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
_CHUNK_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class UserNotFound(PermanentError):
    """No account of this machine (NSS) has the uid."""


class ChildLost(TemporaryError):
    """A child ended without an answer; what it did until then is not known."""


class ChildCrashed(SbridgeError):
    """A child ended with an exception that nobody foresaw; the text is its traceback."""


@dataclass(frozen=True)
class User:
    """An account as NSS knows it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_user(uid: int) -> User:
    """Return the account of `uid`; raises `UserNotFound`.

    Asks NSS, which may ask the network: call it in a child where that must not block.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise UserNotFound(f"uid {uid} is no account of this machine") from None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return User(entry.pw_name, uid, entry.pw_gid, tuple(groups), entry.pw_dir, entry.pw_shell)


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Turn this process into the user's, for good; only a child may call this.

    Without root's privileges it can only stay who it is; raises `PermissionError` when it
    is asked to become somebody else.
    """
    if os.geteuid() == 0 or uid != os.geteuid():
        kernel.renounce_privileges(uid, gid, list(groups))


class Child:
    """A forked child under way; `deadline` is a time of time.monotonic()."""

    def __init__(self, pid: int, pipe: int, timeout_s: float) -> None:
        self.pid = pid
        self.deadline = time.monotonic() + timeout_s
        self.timeout_s = timeout_s
        self._pipe = pipe
        self._answer = bytearray()
        self._was_killed = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the child has something to say."""
        return self._pipe

    def uid(self) -> int:
        """Return whose process the child is now; ours until it became a user."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))

    def receive(self) -> bool:
        """Take in what has come; return whether the child has ended its answer."""
        while True:
            try:
                chunk = os.read(self._pipe, _CHUNK_BYTES)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            self._answer += chunk

    def kill(self) -> None:
        """End the child and what it started in its session's process group, with SIGKILL.

        Unless the child had answered already, its result is `ChildLost`. Does nothing a
        second time.
        """
        if self._was_killed:
            return
        self._was_killed = True
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no session of its own yet, or is over
            os.kill(self.pid, signal.SIGKILL)

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised; call it once.

        Errors: `TemporaryError` and `PermanentError` come back as such, an OSError as a
        `TemporaryError`, any other exception as `ChildCrashed`. No answer is `ChildLost`.
        """
        os.close(self._pipe)
        _, status = os.waitpid(self.pid, 0)
        if not self._answer.endswith(b"\n"):
            raise ChildLost(self._ending(os.waitstatus_to_exitcode(status)))
        answer = json.loads(self._answer)
        if "error" in answer:
            raise _error(answer)
        return answer["result"]

    def _ending(self, code: int) -> str:
        if self._was_killed:
            return f"did not answer within {self.timeout_s:g} s"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name} before it answered"
        return f"ended with exit code {code} and no answer"


def start(
    function: Callable[[], Any], *, timeout_s: float, ends_with_parent: bool = False
) -> Child:
    """Fork a child that calls `function` and answers with what it returns (JSON).

    The caller ends the child once `timeout_s` seconds have passed (`Child.deadline`).
    `ends_with_parent` kills the child when this process dies; not for one that must bring
    what it began to an end. A child that becomes a user survives then, as the kernel
    forgets the wish with the privileges. Raises OSError when the machine has no room for
    another process.
    """
    ours, theirs = os.pipe()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid == 0:
        _run_child(function, theirs, parent if ends_with_parent else None)
    os.close(theirs)
    os.set_blocking(ours, False)
    return Child(pid, ours, timeout_s)


def _run_child(function: Callable[[], Any], pipe: int, parent: int | None) -> NoReturn:
    """Call the function and leave, whatever happens: the caller's code must not run twice."""
    try:
        gc.disable()
        _shed_the_parents_state(parent)
        _write(pipe, json.dumps(_answer(function)).encode() + b"\n")
    except BaseException:  # noqa: BLE001 - the parent is told by the missing answer
        os._exit(1)
    os._exit(0)


def _shed_the_parents_state(parent: int | None) -> None:
    signal.set_wakeup_fd(-1)
    for number in _RESET_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    if parent is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _answer(function: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": function()}
    except TemporaryError as error:
        answer = {"error": "temporary", "message": error.message, "hint": error.hint}
        return {**answer, "retry_after_s": error.retry_after_s}
    except SbridgeError as error:
        return {"error": "permanent", "message": error.message, "hint": error.hint}
    except OSError as error:
        return {"error": "temporary", "message": describe(error), "hint": "", "retry_after_s": 5.0}
    except Exception:  # noqa: BLE001 - told to the parent, which logs it
        return {"error": "crash", "message": traceback.format_exc(), "hint": ""}


def _error(answer: dict[str, Any]) -> SbridgeError:
    message, hint = answer["message"], answer["hint"]
    if answer["error"] == "temporary":
        return TemporaryError(message, hint=hint, retry_after_s=answer["retry_after_s"])
    if answer["error"] == "permanent":
        return PermanentError(message, hint=hint)
    return ChildCrashed(message)


def describe(error: OSError) -> str:
    """Return an OSError as "<file>: <reason>"."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _write(pipe: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(pipe, view) :]
