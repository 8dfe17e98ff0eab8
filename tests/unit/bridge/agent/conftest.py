"""A clock, a log and a runtime for tests of what waits, tells and ends."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.agent import job
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes.host import HostRuntime


class Clock:
    """Tells the time that a test has set, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Log:
    """Keeps the lines: events and their facts."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]

    def bind(self, **_: Any) -> "Log":
        return self

    def _note(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    debug = info = warning = error = _note


class Pods(HostRuntime):
    """A runtime with sandboxes of these names; `stuck` ones stay, `broken` ones are bugs."""

    def __init__(self, *names: str, away: str = "", stuck: Any = (), broken: Any = ()) -> None:
        self.there = set(names)
        self.away = away
        self.stuck = stuck
        self.broken = broken

    def names(self) -> set[str]:
        if self.away:
            raise TemporaryError(self.away)
        return set(self.there)

    def remove(self, name: str, _sandbox: Any) -> None:
        if name in self.stuck:
            raise NodeError(f"{name} stays")
        if name in self.broken:
            raise KeyError(name)
        self.there.discard(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def pods() -> type[Pods]:
    return Pods


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Have no state of a run written meanwhile."""

    @contextlib.contextmanager
    def full_disk() -> Iterator[None]:
        def write(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(job, "write_atomically", write)
            yield

    return full_disk
