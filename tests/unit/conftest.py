"""Users and folders for tests that must pass as root and as anybody else."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import as_user
from bridge.as_user import User


@pytest.fixture(scope="session")
def ordinary() -> User:
    """Give a user that is not root: who runs the tests, or for root an account of every Debian."""
    return as_user.find_user(os.geteuid() or 1)


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """Give a folder that every user can reach and write in; pytest's own ones are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="sbridge-test-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)
