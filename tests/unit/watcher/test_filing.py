import os

import pytest

from watcher import filing

TAG = "0123456789abcdef" * 2
TEXT = f"text of {TAG}".encode()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "claimed"
    path.write_bytes(b"the file")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "processed"
    path.mkdir()
    return path


def put_away(source, folder, name="a.sh", tag=TAG):
    return filing.put_away(source, folder, name, ".txt", TEXT, tag)


def found(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_file_and_text_lie_side_by_side(source, folder):
    assert put_away(source, folder) == "a.sh"
    assert found(folder) == {"a.sh": b"the file", "a.sh.txt": TEXT}
    assert not source.exists()


@pytest.mark.parametrize("taken", ["a.sh", "a.sh.txt"])
def test_a_taken_name_is_left_alone(source, folder, taken):
    (folder / taken).write_bytes(b"mine")
    assert put_away(source, folder) == "a (2).sh"
    assert found(folder) == {taken: b"mine", "a (2).sh": b"the file", "a (2).sh.txt": TEXT}


def test_a_dangling_link_is_a_taken_name_and_not_followed(source, folder, tmp_path):
    (folder / "a.sh.txt").symlink_to(tmp_path / "outside")
    (folder / "a (2).sh").symlink_to(tmp_path / "outside")
    assert put_away(source, folder) == "a (3).sh"
    assert not (tmp_path / "outside").exists()


def test_what_an_earlier_try_began_is_brought_to_its_end(source, folder):
    (folder / "a.sh.txt").write_bytes(TEXT)
    assert put_away(source, folder) == "a.sh"
    assert found(folder) == {"a.sh": b"the file", "a.sh.txt": TEXT}


def test_a_text_that_cannot_be_written_leaves_nothing_and_the_file_where_it_was(
    source, folder, monkeypatch
):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put_away(source, folder)
    assert found(folder) == {}
    assert source.exists()


def test_a_file_that_is_gone_is_told(source, folder):
    source.unlink()
    with pytest.raises(FileNotFoundError):
        put_away(source, folder)


def test_a_long_name_is_cut_so_that_both_fit(source, folder):
    name = put_away(source, folder, "가" * 85)
    assert len(os.fsencode(name + ".txt")) <= 255


def test_a_folder_that_its_owner_may_not_write_is_moved_too(tmp_path, folder):
    source = tmp_path / "sub"
    source.mkdir(mode=0o500)
    assert put_away(source, folder, "dir") == "dir"
    assert (folder / "dir").is_dir()
