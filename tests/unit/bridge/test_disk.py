"""A folder is only fit when it takes what is written and has room for more."""

import io
import os

import pytest

from bridge import disk
from bridge.errors import NodeError


def test_a_folder_with_room_is_fit_and_stays_empty(tmp_path):
    disk.check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_with_the_reason(tmp_path):
    with pytest.raises(NodeError, match="gone cannot be written: No such file"):
        disk.check(tmp_path / "gone")


def test_a_folder_without_room_is_named_with_what_is_left(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[4] = 63 * (1 << 20) // real.f_frsize  # f_bavail: blocks for ordinary users
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    with pytest.raises(NodeError, match="has room for 63 MiB"):
        disk.check(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_refuses_to_write_is_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with pytest.raises(NodeError, match="cannot be written: No space left on device"):
        disk.check(tmp_path)
