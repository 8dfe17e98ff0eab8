"""sbridge-run as a process, and its agent and keeper, whom a test plays by bridge.wire."""

import array
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bridge import wire

PATIENCE_S = 20.0
AFTERWARDS_S = 0.2
JOB = b"7"

Fields = Iterable[tuple[str, bytes]]
_libc = ctypes.CDLL(None)


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)
    return seen


class Line:
    """A connection of sbridge-run's, at the end of the agent or keeper."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        self.socket = connection
        self.descriptors: list[int] = []

    def hear(self, *, keeps: bool = False) -> wire.Message:
        """Receive a message, and with it, if they are to be kept, `descriptors`."""
        wire.close_all(self.descriptors)
        message, self.descriptors = wire.receive(self.socket)
        if not keeps:  # who reads the step's output would never see its end
            wire.close_all(self.descriptors)
        assert message is not None, "sbridge-run hung up"
        return message

    def say(self, kind: str, *fields: tuple[str, bytes], descriptors: Iterable[int] = ()) -> None:
        wire.send(self.socket, wire.Message(kind, list(fields)), list(descriptors))

    def send(self, data: bytes, descriptors: Iterable[int] = ()) -> None:
        """Send bytes that may be no message."""
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        self.socket.sendmsg([data], ancillary)

    def hear_signal(self) -> tuple[int, bool]:
        """Receive a signal that is passed on: its number, and whether the group got it.

        A busy machine may have that told afterwards.
        """
        number, whom = self.hear_part()
        if whom == "script" and select.select([self.socket], [], [], AFTERWARDS_S)[0]:
            assert self.hear_part() == (number, "others")
            whom = "group"
        return number, whom == "group"

    def hear_part(self) -> tuple[int, str]:
        """Receive a signal that is passed on: its number, and for whom it is."""
        message = self.hear()
        assert message.kind == "signal"
        return int(message.first("number")), message.text("to")

    def end(self) -> None:
        wire.close_all(self.descriptors)
        self.socket.close()


class Agent:
    """The agent of a node of its own; `program` is the sbridge-run that talks to it."""

    def __init__(self, program: Path, run_dir: Path) -> None:
        self.program = program
        self.node = f"n{len(list(run_dir.iterdir()))}"
        self._folder = run_dir / self.node
        self._folder.mkdir()
        self._steps: list[subprocess.Popen[bytes]] = []
        self._lines: list[Line] = []
        self._listener: socket.socket | None = None
        self.listen()

    @property
    def environment(self) -> dict[bytes, bytes]:
        return {b"SLURM_JOB_ID": JOB, b"SLURMD_NODENAME": self.node.encode(), b"PATH": b"/usr/bin"}

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(PATIENCE_S)
        self._listener.bind(str(self._folder / "agent.sock"))
        (self._folder / "agent.sock").chmod(0o666)
        self._listener.listen()

    def vanish(self) -> None:
        """Have nobody there."""
        assert self._listener is not None
        self._listener.close()
        (self._folder / "agent.sock").unlink()

    def start(
        self,
        *argv: str | bytes,
        pairs: list[bytes] | None = None,
        before: Callable[[], Any] = lambda: None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start sbridge-run; `pairs` is its whole environment, `before` runs right before it."""

        def prepare() -> None:
            before()
            if pairs is not None:
                _execute(
                    os.fsencode(self.program), [b"sbridge-run", *map(os.fsencode, argv)], pairs
                )

        given: dict[str, Any] = {
            "env": self.environment,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "start_new_session": True,
        }
        given |= {"preexec_fn": prepare} | options
        step = subprocess.Popen([self.program, *argv], **given)
        self._steps.append(step)
        return step

    def accept(self) -> Line:
        assert self._listener is not None
        line = Line(self._listener.accept()[0])
        self._lines.append(line)
        return line

    def refuse_within(self, time_s: float, kind: str | None = "failed") -> None:
        """Send away who comes within some time, with a word or without."""
        assert self._listener is not None
        self._listener.settimeout(time_s)
        try:
            line = Line(self._listener.accept()[0])
        except TimeoutError:
            return
        if kind is not None:
            message, line.descriptors = wire.receive(line.socket)
            if message is not None:  # nobody gave up
                line.say(kind, ("text", b"no"), ("exit_code", b"3"))
        line.end()

    def enter(
        self, *argv: str | bytes, **options: Any
    ) -> tuple[subprocess.Popen[bytes], Line, int]:
        """Start a step and let it in; returns it, its keeper's line, and its witness's pid."""
        step = self.start(*(argv or ("/bin/sh",)), **options)
        line = self.accept()
        line.hear()
        line.say("entered")
        go = line.hear()
        assert go.kind == "go"
        return step, line, int(go.first("witness"))

    def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for line in self._lines:
            line.end()
        for step in self._steps:
            step.kill()
            step.communicate(timeout=PATIENCE_S)
        shutil.rmtree(self._folder)


def _execute(program: bytes, argv: list[bytes], pairs: list[bytes]) -> None:
    """Execute with an environment that no dict can hold."""
    _libc.execve(program, _vector(argv), _vector(pairs))
    os._exit(99)


def _vector(items: list[bytes]) -> Any:
    return (ctypes.c_char_p * (len(items) + 1))(*items, None)


def ended(step: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return how a step ended, as a shell does not, and what it said."""
    _, said = step.communicate(timeout=PATIENCE_S)
    return step.returncode, os.fsdecode(said or b"")


def ignoring(*numbers: int) -> Callable[[], None]:
    """Return what ignores signals."""

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return ignore


def status_of(pid: int, name: str) -> str:
    """Return a line of /proc/<pid>/status, "" when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return dict(line.split(":\t", 1) for line in lines).get(name, "").strip()


def is_gone(pid: int) -> bool:
    return status_of(pid, "State")[:1] in ("", "Z", "X")


def descriptors_of(pid: int) -> dict[int, str]:
    """Return what a process has open, by number."""
    folder = f"/proc/{pid}/fd"
    return {int(name): os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}


def witness_of(step: subprocess.Popen[bytes]) -> int:
    """Return the witness's pid once it sees signals."""
    children = Path(f"/proc/{step.pid}/task/{step.pid}/children")
    pid = int(wait_for(lambda: children.read_text().strip()))
    wait_for(lambda: int(status_of(pid, "SigBlk"), 16))
    wait_for(lambda: len(descriptors_of(pid)) == 2)
    return pid
