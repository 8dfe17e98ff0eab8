"""A daemon that outlives this script: started once, recorded, found again by the next call.

Its record holds the pid, when that process began, and a digest of what it was started from. When
that digest is another one now, `up` restarts the daemon.
"""

import contextlib
import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from commands import Failure, wait_until
from files import write
from processes import end_processes, start_time

START_TIMEOUT_S = 60.0
_RESTART_S = 0.5


class EndedAtOnceError(Failure):
    """A daemon that ended before it worked."""


def _at_once() -> bool:
    return True


class Home(Protocol):
    """What a daemon needs of its cluster."""

    @property
    def run(self) -> Path: ...

    @property
    def log(self) -> Path: ...

    @property
    def daemon_environment(self) -> dict[str, str]: ...


@dataclass
class Daemon:
    """One daemon of a cluster: how it is started, and how one sees that it works.

    `inputs` are the files that it reads at its start: when one changes, it is restarted.
    `address` is for people to read; `notifies` says that it sends READY=1 as to systemd;
    `restarts` that it gives up when what it needs is not ready, and is tried again, as systemd's
    Restart=on-failure has it.
    """

    cluster: Home
    name: str
    argv: list[str]
    ready: Callable[[], bool] = _at_once
    inputs: list[Path] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    notifies: bool = False
    restarts: bool = False
    address: str = ""

    @property
    def record(self) -> Path:
        return self.cluster.run / "daemons" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.cluster.log / f"{self.name}.out"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.argv, sorted(self.environment.items()))).encode())
        for path in self.inputs:
            digest.update(path.read_bytes() if path.exists() else b"missing")
        return digest.hexdigest()

    def up(self) -> str:
        """Start it unless it runs as it should; return what was done, in words."""
        saved = recorded(self.record)
        if saved and saved["fingerprint"] == self.fingerprint():
            self.wait_ready(lambda: start_time(saved["pid"]) is not None, 0, self.ready)
            return "was up already"
        if saved:
            stop_recorded(self.record)
        self.start()
        return "restarted, because what it was started from has changed" if saved else "up"

    def start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                return self._start_once()
            except EndedAtOnceError:
                if not self.restarts or time.monotonic() > deadline:
                    raise
            time.sleep(_RESTART_S)

    def _start_once(self) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        environment = {**self.cluster.daemon_environment, **self.environment}
        begin = self.log.stat().st_size if self.log.exists() else 0
        with contextlib.ExitStack() as stack:
            said_ready = _at_once
            if self.notifies:
                path = self.cluster.run / f"{self.name}.notify"
                said_ready = stack.enter_context(_notification(path))
                environment["NOTIFY_SOCKET"] = str(path)
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    self.argv,
                    cwd="/",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    umask=0o022,
                )
            record = {
                "pid": process.pid,
                "start_time": start_time(process.pid),
                "fingerprint": self.fingerprint(),
            }
            write(self.record, json.dumps(record))
            self.wait_ready(
                lambda: process.poll() is None, begin, lambda: said_ready() and self.ready()
            )

    def wait_ready(
        self, alive: Callable[[], bool], log_begin: int, ready: Callable[[], bool]
    ) -> None:
        """Wait until it works; a daemon that does not is a failure that shows its log."""
        in_time = wait_until(lambda: not alive() or ready(), START_TIMEOUT_S)
        still_runs = alive()
        if still_runs and in_time:
            return
        end = f"The end of {self.log}:\n{self.tail(log_begin)}"
        if still_runs:
            raise Failure(f"{self.name} did not become ready in time. {end}")
        raise EndedAtOnceError(f"{self.name} ended right after its start. {end}")

    def tail(self, begin: int) -> str:
        """Return the last lines that it logged since `begin`."""
        with self.log.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-12:]) or "    (empty)"


@contextlib.contextmanager
def _notification(path: Path) -> Iterator[Callable[[], bool]]:
    """Listen where a daemon says READY=1, as systemd would."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(path))

        said = False

        def said_ready() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said = said or b"READY=1" in listener.recv(4096).split(b"\n")
            return said

        try:
            yield said_ready
        finally:
            path.unlink(missing_ok=True)


def recorded(record: Path) -> dict[str, Any] | None:
    """Return a daemon's record while that very process runs."""
    try:
        saved: dict[str, Any] = json.loads(record.read_text())
    except FileNotFoundError:
        return None
    began = start_time(saved["pid"])
    return saved if began and began == saved["start_time"] else None


def stop_recorded(record: Path) -> bool:
    """End the recorded daemon, by force when it does not obey; True when it had to end."""
    saved = recorded(record)
    if saved:
        end_processes([saved["pid"]])
    record.unlink(missing_ok=True)
    return saved is not None


def stop_all(records: Sequence[Path]) -> None:
    """End several daemons at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(stop_recorded, records))


def accepts(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(path))
        return True
    return False
