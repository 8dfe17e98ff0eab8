"""Locks on the local disk: one watcher at a time, and one process per submission.

<state_dir>/watcher.lock     held by the watcher (fcntl: children do not inherit it)
<state_dir>/locks/<tag>      held by the process of a submission and its sbatch (flock on an
                             inherited descriptor): after a watcher was killed, its successor
                             sees whether they still run
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from bridge.errors import ConfigError, PermanentError


class StateFolder:
    """The watcher's folder on the local disk; keep the object as long as the watcher runs."""

    def __init__(self, state_dir: Path) -> None:
        """Take the folder for this watcher.

        Raises `ConfigError` when it cannot be written to, `PermanentError` when another
        watcher has it.
        """
        self._locks = state_dir / "locks"
        try:
            self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own = os.open(state_dir / "watcher.lock", _FLAGS, 0o600)
        except OSError as error:
            reason = f"watcher.state_dir: {error.filename}: {error.strerror}"
            raise ConfigError(
                reason, hint="It must be a local folder that root can write."
            ) from error
        try:
            fcntl.lockf(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._own)
            raise PermanentError(
                f"another sbridge-watcher is running: it holds {state_dir / 'watcher.lock'}",
                hint="Stop it first, or give this one its own watcher.state_dir and NAS folders.",
            ) from error

    def close(self) -> None:
        """Let another watcher have the folder."""
        os.close(self._own)

    def lock(self, tag: str) -> int | None:
        """Return a descriptor that holds the tag's lock, None while a process has it.

        The lock ends with the last process that inherited the descriptor. Raises OSError
        when the folder cannot be used.
        """
        descriptor = os.open(self._locks / tag, _FLAGS, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def is_free(self, tag: str) -> bool:
        """Whether certainly no process works on the submission."""
        try:
            descriptor = os.open(self._locks / tag, _FLAGS & ~os.O_CREAT)
        except OSError as error:
            return error.errno == errno.ENOENT
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, tag: str) -> None:
        """Remove the lock of a submission that is over; one that stays does no harm."""
        with contextlib.suppress(OSError):
            (self._locks / tag).unlink()

    def sweep(self, tags_in_use: set[str]) -> None:
        """Remove the locks of submissions that are over, left by a watcher that was killed."""
        with contextlib.suppress(OSError):
            for tag in os.listdir(self._locks):
                if tag not in tags_in_use and self.is_free(tag):
                    self.forget(tag)


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
