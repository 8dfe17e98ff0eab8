"""What the tests of the watcher work on: a site, or a board and children that are not forked."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.as_user import User
from bridge.config import Config
from bridge.errors import SbridgeError
from tests.unit.watcher.watched_site import Site
from watcher.board import Board
from watcher.children import Done
from watcher.locks import StateFolder
from watcher.workplace import Workplace


@pytest.fixture
def site(open_dir: Path, ordinary: User) -> Iterator[Site]:
    """Give a site; its watchers are ended with it."""
    made = Site(open_dir, ordinary)
    yield made
    for name in ("hold-before", "hold-after"):
        (made.slurm / name).unlink(missing_ok=True)
    for watcher in made.watchers:
        watcher.close()
    assert not made.log("child_crashed")


class HeldChildren:
    """Children that are never forked; `end` tells the oldest one's result."""

    def __init__(self) -> None:
        self.waiting: list[Done] = []
        self.owners: list[int | None] = []
        self.stuck_of: Counter[int] = Counter()

    @property
    def stuck(self) -> int:
        return self.stuck_of.total()

    def by_owner(self) -> Counter[int]:
        return Counter(one for one in self.owners if one is not None) + self.stuck_of

    def begin(self, work: Any, done: Done, *, owner: int | None = None, **_: Any) -> None:
        self.waiting.append(done)
        self.owners.append(owner)

    def end(self, result: Any = None, trouble: SbridgeError | None = None) -> None:
        self.owners.pop(0)
        self.waiting.pop(0)(result, trouble)


@pytest.fixture
def children() -> HeldChildren:
    return HeldChildren()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


@pytest.fixture
def board() -> Board:
    return Board(settle_s=3.0)


@pytest.fixture
def place(state: StateFolder, board: Board, children: Any, mocker: Any) -> Workplace:
    return Workplace(Config(), state, board, children, mocker.Mock())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], float]:
    """Set the time that time.monotonic tells."""

    def set_to(now: float) -> float:
        monkeypatch.setattr(time, "monotonic", lambda: now)
        return now

    set_to(100.0)
    return set_to
