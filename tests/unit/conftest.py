"""Users, folders and programs for tests that must pass as root and as anybody else."""

import os
import re
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def in_child() -> Callable[..., Any]:
    """Run a function in a child of bridge.as_user, and wait for its result."""

    def call(function: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        child = as_user.start(function, timeout_s=timeout_s, ends_with_parent=True)
        while not child.receive():
            readable, _, _ = select.select([child], [], [], child.deadline - time.monotonic())
            if not readable:
                child.kill()
                select.select([child], [], [])
        return child.result()

    return call


@pytest.fixture
def program_without_loader() -> bytes:
    """Give a program of this machine that names a loader which nobody has."""
    content = Path("/bin/true").read_bytes()
    loader = re.search(rb"/lib[\w./-]*/ld[\w.-]*\0", content)
    assert loader
    return content.replace(loader[0], b"/no" + loader[0][3:])


@pytest.fixture(
    params=[
        (b"#!/no/such/python\n", 127, "interpreter /no/such/python cannot be started: No such"),
        (b"#!/etc/passwd\n", 126, "interpreter /etc/passwd cannot be started: Permission denied"),
        (b"#!/bin/sh\0x\n", 126, "NUL byte"),
        (b"\x7fELFgarbage", 126, "Exec format error"),
        (None, 127, "loader is missing"),
        (b"", 126, "begins with no #! line"),
    ],
    ids=["no interpreter", "no program as interpreter", "NUL", "garbage", "no loader", "empty"],
)
def unstartable(request: pytest.FixtureRequest, program_without_loader: bytes) -> Any:
    """Give a file of #K8S_SCRIPT that does not start: content, a shell's exit code, and words."""
    content, exit_code, words = request.param
    return program_without_loader if content is None else content, exit_code, words


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., bytes]:
    """Write a file and return its path as bytes."""

    def make(name: str, content: bytes = b"", mode: int = 0o644) -> bytes:
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(mode)
        return os.fsencode(path)

    return make
