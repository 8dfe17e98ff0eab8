import os
from pathlib import Path

import pytest

from bridge.durable import sync_directory, write_atomically


def test_a_file_is_made_with_content_and_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "state.json", b"{}", mode=0o644)
    finally:
        os.umask(before)
    status = (tmp_path / "state.json").stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o644, 2)


def test_the_default_mode_is_the_owners_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "state.json", b"{}")
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_file_is_replaced_and_no_draft_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "state", b"old")
    write_atomically(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("step", ["fchmod", "fsync", "replace"])
def test_a_failure_leaves_the_old_text_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_atomically(tmp_path / "state", b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "state", b"new")
    monkeypatch.undo()
    assert (tmp_path / "state").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def record(*arguments: object, _name: str = name, _call: object = original) -> object:
            calls.append(_name)
            return _call(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(os, name, record)
    write_atomically(tmp_path / "state", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_link_planted_as_the_draft_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / f".state.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "state", b"x")
    assert victim.read_bytes() == b"untouched"


def test_sync_directory_wants_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    sync_directory(tmp_path)
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")
