"""A terminal at which a test types: a pty, and the program that has it as its own."""

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

import pytest

CTRL_C, CTRL_Z = "\x03", "\x1a"


class TypedTerminal:
    """A program at a terminal of its own, 30 lines of 100 columns unless resized."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        self.resize(30, 100)
        self._program = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **environment},
        )
        os.close(slave)
        self._unread = ""

    def type(self, text: str) -> None:
        """Type; a line ends with Return."""
        os.write(self._master, text.replace("\n", "\r").encode())

    def resize(self, lines: int, columns: int) -> None:
        """Change the window's size."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def read_to(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Return the first match of what was not read yet; all up to its end is read then."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self._unread)):
            left = deadline - time.monotonic()
            if left <= 0 or not self._receive(left):
                pytest.fail(f"no {pattern!r} on the terminal within {timeout:g} s: {self._unread}")
        self._unread = self._unread[found.end() :]
        return found

    def _receive(self, timeout: float) -> bool:
        """Take what is there; False when nothing comes any more."""
        if not select.select([self._master], [], [], timeout)[0]:
            return False
        try:
            self._unread += os.read(self._master, 4096).decode("utf-8", "replace")
        except OSError:  # every program has closed the terminal
            return False
        return True

    def wait(self, timeout: float = 30) -> int:
        """Return the program's exit code, once it has ended."""
        deadline = time.monotonic() + timeout
        while self._receive(max(0.0, deadline - time.monotonic())):
            pass
        return self._program.wait(timeout)

    def close(self) -> None:
        """Close the window; twice is fine."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def end(self) -> None:
        """Close the window and see to it that the program ends."""
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(10)
        self._program.kill()
        self._program.wait()
