"""Run one external command and tell its end in words.

Every program that sbridge starts and waits for goes through `run`: an argv list (never a
shell), stdin from /dev/null unless input is given, a bounded time, an environment made
here and not inherited.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.errors import CommandError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CANCEL_INTERVAL_S = 0.2
_LAST_WORDS_S = 1.0
_INHERITED = ("SLURM_CONF", "PATH", "TZ")


@dataclass(frozen=True)
class Completed:
    """What a command that ended with exit code 0 printed."""

    stdout: str
    stderr: str


def base_environment() -> dict[str, str]:
    """Return the few variables that a command of ours gets, in the C.UTF-8 locale."""
    environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
    environment.update({name: os.environ[name] for name in _INHERITED if name in os.environ})
    return environment


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cancelled: threading.Event | None = None,
) -> Completed:
    """Run argv to its end within `timeout_s` seconds and return what it printed.

    `environment` is added to `base_environment()`. Setting `cancelled` ends the command
    within a fraction of a second. Raises `CommandError` when the command
    cannot be started, ends with another code than 0 or does not end in time (then it and
    its process group were killed).
    """
    source = _opened(stdin)
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=base_environment() | dict(environment or {}),
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(list(argv), None, "", f"cannot be started ({error.strerror})") from error
    finally:
        os.close(source)
    with process:
        try:
            stdout, stderr = _communicate(process, timeout_s, cancelled)
        except subprocess.TimeoutExpired:
            stderr = _kill(process)
            was_cancelled = cancelled is not None and cancelled.is_set()
            reason = "was cancelled" if was_cancelled else f"did not end within {timeout_s:g} s"
            raise CommandError(list(argv), None, _text(stderr), reason) from None
    if process.returncode != 0:
        reason = _ending(process.returncode)
        raise CommandError(list(argv), process.returncode, _text(stderr), reason)
    return Completed(_text(stdout), _text(stderr))


def _opened(stdin: bytes) -> int:
    """Return a descriptor to read `stdin` from.

    Not a pipe: `Popen.communicate` called again after a timeout does not go on writing
    (CPython 3.11), and nobody need feed a file.
    """
    if not stdin:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(stdin)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _communicate(
    process: subprocess.Popen[bytes],
    timeout_s: float,
    cancelled: threading.Event | None,
) -> tuple[bytes, bytes]:
    if cancelled is None:
        return process.communicate(timeout=timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return process.communicate(timeout=_CANCEL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            if cancelled.is_set() or time.monotonic() >= deadline:
                raise


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    """Kill the command's process group and return what it said on stderr."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # only somebody who left the group still holds its stdout
    try:
        return process.communicate(timeout=_LAST_WORDS_S)[1]
    except subprocess.TimeoutExpired as error:
        return error.stderr or b""


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _ending(code: int) -> str:
    if code < 0:
        number = -code
        known = number in signal.valid_signals() and number < signal.SIGRTMIN
        return f"was ended by {signal.Signals(number).name if known else f'signal {number}'}"
    return f"ended with exit code {code}"
