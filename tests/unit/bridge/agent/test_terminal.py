"""Where a terminal gets its name inside a sandbox, whose /dev is the image's."""

import os

import pytest

from bridge.agent import terminal


def test_a_name_is_made_in_the_folder_of_devices(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(terminal, "_NAME", os.fsencode(tmp_path / "dev/console"))
    terminal._make_place()
    terminal._make_place()
    assert (tmp_path / "dev/console").stat().st_size == 0


def test_no_name_is_made_where_a_link_of_the_image_leads(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "dev").symlink_to("home")
    monkeypatch.setattr(terminal, "_NAME", os.fsencode(tmp_path / "dev/console"))
    with pytest.raises(OSError, match="Not a directory"):
        terminal._make_place()
    assert list((tmp_path / "home").iterdir()) == []
