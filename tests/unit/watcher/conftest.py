"""The site that the tests of the watcher work on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.as_user import User
from tests.unit.watcher.watched_site import Site


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
