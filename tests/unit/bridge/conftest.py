"""Files for tests, and Slurm's commands: scripts that say what a test tells them to."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.config import Slurm


@pytest.fixture
def slurm(open_dir: Path) -> Slurm:
    """Give settings whose bin_dir is a folder of the test."""
    return Slurm(bin_dir=open_dir, conf=str(open_dir / "slurm.conf"), timeout_s=10.0)


@pytest.fixture
def command(open_dir: Path) -> Callable[[str, str], None]:
    """Make a Slurm command out of a shell script's body."""

    def make(name: str, body: str) -> None:
        path = open_dir / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    return make
