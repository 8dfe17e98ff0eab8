import os

import pytest

from watcher import names

TAG = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "name",
    [
        ".sbridge", ".nfs0001", ".~lock.a.sh#", ".DS_Store", "._a.sh", "~$a.sh", "a.sh~", "a.TMP",
        "a.part", "a.filepart", "a.crdownload", "Thumbs.db", "THUMBS.DB", "desktop.ini", "@eaDir",
        "#recycle", "lost+found",
    ],
)  # fmt: skip
def test_debris_is_ignored(name):
    assert names.is_ignored(name)


@pytest.mark.parametrize(
    "name", ["a.sh", "a", "tmp", "part.sh", "my.tmp.sh", "~a.sh", "#a.sh", "실험"]
)
def test_job_files_are_not(name):
    assert not names.is_ignored(name)


@pytest.mark.parametrize("name", ["a.sh", "실험 1.sh", "a.b.c", os.fsdecode(b"\xff.sh"), "a\nb"])
def test_the_name_of_a_claimed_file_is_found_again(name):
    assert names.parse_claimed(names.claimed(TAG, name)) == (TAG, name)


@pytest.mark.parametrize("name", ["x" * 300 + ".sh", "가" * 100 + ".sh", "\udcff" * 300])
def test_a_long_name_is_cut_to_what_fits_and_keeps_its_suffix(name):
    entry = names.claimed(TAG, name)
    assert len(os.fsencode(entry)) <= 255
    tag, kept = names.parse_claimed(entry)
    assert tag == TAG
    assert kept[:60] == name[:60]
    assert kept.endswith(".sh") == name.endswith(".sh")


@pytest.mark.parametrize(
    "entry", ["a.sh", TAG, f"{TAG}.", f"{TAG}x.sh", f"{TAG.upper()}.sh", "g" * 32]
)
def test_other_names_are_no_claims(entry):
    assert names.parse_claimed(entry) is None


def test_numbers_go_before_the_suffix():
    assert names.numbered("a.sh", 1) == "a.sh"
    assert names.numbered("a.sh", 2) == "a (2).sh"
    assert names.numbered("a.tar.gz", 3) == "a.tar (3).gz"
    assert names.numbered("no suffix", 2) == "no suffix (2)"
    assert names.numbered("a.not really a suffix, but text", 2).endswith("text (2)")


@pytest.mark.parametrize("number", [1, 2, 999])
def test_numbered_names_fit(number):
    name = names.numbered("가" * 100 + ".sh", number, 245)
    assert len(os.fsencode(name)) <= 245
    assert name.endswith(".sh" if number == 1 else f" ({number}).sh")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hello.sh", "hello"),
        ("실험 1.sh", "실험 1"),
        ("no-suffix", "no-suffix"),
        ("new\nline\x1b.sh", "new_line_"),
        (os.fsdecode(b"caf\xe9.sh"), "caf_"),
        ("🚀.sh", "_"),
        ("  .sh", "job"),
    ],
)
def test_the_job_is_called_as_its_file_in_characters_that_slurm_keeps(name, expected):
    assert names.job_name(name) == expected


def test_a_shown_name_has_nothing_that_a_terminal_would_obey():
    assert names.shown("a\x1b[31m\n\udcff.sh") == "a�[31m��.sh"
