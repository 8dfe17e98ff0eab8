"""The files of Slurm's commands that every sandbox of a node sees."""

import os

import pytest

from bridge.agent import shim
from bridge.errors import ConfigError


@pytest.fixture
def front(tmp_path):
    path = tmp_path / "sbridge-front"
    path.write_bytes(b"\x7fELF")
    return path


@pytest.fixture
def share(tmp_path):
    path = tmp_path / "share"
    path.mkdir()
    return path


def state(share):
    found = [path.stat() for path in [*sorted(share.glob("bin/*")), share / "front"]]
    return [(status.st_ino, status.st_mtime_ns, status.st_mode) for status in found]


def test_every_command_is_a_link_to_one_program(share, front):
    shim.furnish(share, front)
    assert sorted(path.name for path in (share / "bin").iterdir()) == shim.COMMANDS
    for path in (share / "bin").iterdir():
        assert path.samefile(share / "front")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"\x7fELF", 0o755)
        assert not path.samefile(front), "an upgrade removes that"


def test_every_command_has_its_script(share, front):
    shim.furnish(share, front)
    assert sorted(path.name for path in (share / "shim").iterdir()) == shim.COMMANDS
    assert {path.read_text() for path in (share / "shim").iterdir()} == {shim.TEXT}


def test_programs_that_are_up_to_date_are_left_alone(share, front):
    shim.furnish(share, front)
    before = state(share)
    shim.furnish(share, front)
    assert state(share) == before


def test_another_program_takes_all_places_and_leaves_those_who_run_the_old_one(share, front):
    shim.furnish(share, front)
    running = [os.open(path, os.O_RDONLY) for path in (share / "bin/srun", share / "front")]
    front.write_bytes(b"another")
    shim.furnish(share, front)
    assert {path.read_bytes() for path in (share / "bin").iterdir()} == {b"another"}
    assert [os.read(file, 100) for file in running] == [b"\x7fELF"] * 2
    for file in running:
        os.close(file)


def test_what_an_agent_that_died_has_left_there_is_mended(share, front):
    shim.furnish(share, front)
    for folder in ("bin", "shim", "."):
        os.link(share / "front", share / folder / ".new")
    (share / "bin/squeue").unlink()
    (share / "bin/sinfo").unlink()
    (share / "bin/sinfo").write_text("#!/bin/sh\n")  # of a version before
    shim.furnish(share, front)
    assert {path.read_bytes() for path in (share / "bin").iterdir()} == {b"\x7fELF"}
    assert (share / "front").read_bytes() == b"\x7fELF"
    assert sorted(path.name for path in (share / "bin").iterdir()) == shim.COMMANDS


def test_an_installation_without_the_program_says_so(share, tmp_path):
    missing = tmp_path / "libexec/sbridge-front"
    with pytest.raises(ConfigError) as caught:
        shim.furnish(share, missing)
    assert str(missing) in caught.value.message
    assert "No such file" in caught.value.message
    assert "scripts/install" in caught.value.hint
