"""The copy of a batch script that its sandbox shows."""

import errno
import os
import stat

import pytest

from bridge.agent import script_copy


@pytest.fixture
def script(tmp_path):
    """Give an open script of some megabytes."""
    path = tmp_path / "script"
    path.write_bytes(b"#!/bin/sh\n" * 300_000)
    with path.open("rb") as file:
        file.seek(7)  # where somebody else reads it
        yield file.fileno()


def test_a_copy_holds_all_of_the_script_and_is_for_its_user_alone(script, tmp_path, ordinary):
    uid = ordinary.uid if os.getuid() == 0 else os.getuid()
    script_copy.make(script, str(tmp_path / "copy"), uid)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "script").read_bytes()
    status = (tmp_path / "copy").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o500, uid)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "script"]


def test_a_copy_of_a_run_before_gives_way(script, tmp_path):
    (tmp_path / "copy").write_text("old")
    script_copy.make(script, str(tmp_path / "copy"), os.getuid())
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "script").read_bytes()


@pytest.mark.parametrize("call", ["write", "fchown", "rename"])
def test_a_copy_that_fails_leaves_nothing(script, tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="quota"):
        script_copy.make(script, str(tmp_path / "copy"), os.getuid())
    assert list(tmp_path.iterdir()) == [tmp_path / "script"]


def test_a_script_that_is_too_large_is_refused_in_words(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script_copy, "_LIMIT_BYTES", 2_999_999)
    with pytest.raises(OSError, match="larger than 64 MiB"):
        script_copy.make(script, str(tmp_path / "copy"), os.getuid())
    monkeypatch.setattr(script_copy, "_LIMIT_BYTES", 3_000_000)
    script_copy.make(script, str(tmp_path / "copy"), os.getuid())
