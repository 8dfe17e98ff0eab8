import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from bridge.results import folder
from bridge.results.folder import Claim
from bridge.results.trouble import Trouble

from .conftest import STRANGER, UID, Site, run_as

CLAIM = Claim(42, "t-42", 0)


def open_name(site: Site, claim: Claim = CLAIM, chosen: str = "") -> str:
    def act() -> str:
        with folder.open_folder(str(site.results), claim, chosen) as opened:
            return opened.name

    name: str = run_as(UID, act)
    return name


def test_the_folder_is_made_as_the_user_and_open_for_reading_whatever_the_umask(
    site: Site, only_as_root: None
) -> None:
    before = os.umask(0o077)
    try:
        assert open_name(site) == "42"
    finally:
        os.umask(before)
    status = site.folder.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (UID, 0o755)


def test_a_folder_left_by_a_crash_is_taken_up_again(site: Site) -> None:
    assert open_name(site) == "42"
    assert open_name(site) == "42"
    (site.folder / ".incomplete").unlink()
    assert open_name(site) == "42"


def test_a_squatted_name_is_left_alone(site: Site, only_as_root: None) -> None:
    site.folder.mkdir(mode=0o777)
    os.chown(site.folder, STRANGER, STRANGER)
    (site.results / "42_2").write_bytes(b"a file")
    (site.results / "42_3").symlink_to(site.root)
    site.results.joinpath("42_4").mkdir(mode=0o700)
    assert open_name(site) == "42_5"
    assert os.listdir(site.folder) == []


def test_a_folder_of_ours_that_others_may_write_to_is_not_taken(site: Site) -> None:
    site.folder.mkdir()
    site.folder.chmod(0o775)
    site.own(site.folder)
    assert open_name(site) == "42_2"


def test_a_folder_of_another_submission_with_the_same_job_id_is_left_alone(site: Site) -> None:
    assert open_name(site, Claim(42, "an older submission", 0)) == "42"
    assert open_name(site) == "42_2"
    assert open_name(site) == "42_2"


def test_a_complete_folder_of_an_earlier_run_is_left_alone(site: Site) -> None:
    site.write("stdout.log", b"first")
    assert site.publish()["folder"] == "42"
    assert open_name(site, Claim(42, "t-42", 1)) == "42_2"
    assert open_name(site) == "42"


def test_a_requeued_job_goes_on_in_its_incomplete_folder(site: Site) -> None:
    assert open_name(site) == "42"
    assert open_name(site, Claim(42, "t-42", 1)) == "42"


def test_a_folder_with_things_in_it_that_say_nothing_is_left_alone(site: Site) -> None:
    site.folder.mkdir()
    (site.folder / "thesis.tex").write_bytes(b"mine")
    site.own(site.folder)
    assert open_name(site) == "42_2"


def test_the_stored_name_is_used_again_even_when_the_user_opened_it_to_his_group(
    site: Site,
) -> None:
    assert open_name(site) == "42"
    site.folder.chmod(0o775)
    assert open_name(site, chosen="42") == "42"


def test_a_folder_that_the_user_removed_is_made_again(site: Site) -> None:
    assert open_name(site) == "42"
    subprocess.run(["rm", "-r", str(site.folder)], check=True)
    assert open_name(site, chosen="42") == "42"


@pytest.mark.parametrize("chosen", ["../elsewhere", "/etc", ".", ".."])
def test_a_stored_name_that_is_no_plain_name_is_not_used(site: Site, chosen: str) -> None:
    assert open_name(site, chosen=chosen) == "42"


def test_when_every_name_is_taken_the_reason_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_MAX_ALTERNATIVES", 2)
    monkeypatch.setattr(folder.secrets, "token_hex", lambda _: "guessed")
    for name in ("42", "42_2", "42_t-42", "42_guessed"):
        (site.results / name).write_bytes(b"")
    with pytest.raises(Trouble, match=r"^42, 42_2 .* taken"):
        folder.open_folder(str(site.results), CLAIM)


def test_a_nas_that_gives_all_files_to_one_user_is_told_and_nothing_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(Trouble, match=r"42 was made for uid .*no all_squash"):
        folder.open_folder(str(site.results), CLAIM)
    assert os.listdir(site.results) == []


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"\xff"])
def test_a_broken_marker_makes_the_folder_somebody_elses(site: Site, content: bytes) -> None:
    open_name(site)
    (site.folder / ".incomplete").write_bytes(content)
    assert open_name(site) == "42_2"


def test_a_summary_that_is_a_folder_is_not_read(site: Site) -> None:
    open_name(site)
    (site.folder / "job_summary.json").mkdir()
    assert open_name(site) == "42_2"


def test_writes_go_to_the_opened_folder_when_somebody_swaps_the_name(site: Site) -> None:
    trap = site.root / "trap"
    trap.mkdir()
    with folder.open_folder(str(site.results), CLAIM) as opened:
        site.folder.rename(site.results / "moved")
        site.folder.symlink_to(trap)
        opened.write("note", b"text")
    assert (site.results / "moved" / "note").read_bytes() == b"text"
    assert os.listdir(trap) == []


def test_the_marker_names_job_tag_and_run(site: Site) -> None:
    open_name(site, Claim(42, "t-42", 3))
    marker = json.loads((site.folder / ".incomplete").read_bytes())
    assert marker == {"job_id": 42, "tag": "t-42", "restart": 3}


def test_a_write_that_fails_leaves_no_draft(tmp_path: Path) -> None:
    with folder.open_folder(str(tmp_path), CLAIM) as opened:
        (tmp_path / "42" / "taken").mkdir()
        with pytest.raises(IsADirectoryError):
            opened.write("taken", b"text")
        assert sorted(os.listdir(tmp_path / "42")) == [".incomplete", "taken"]


def test_a_stranger_who_takes_every_plain_name_withholds_nothing(site: Site) -> None:
    for name in ["42", *(f"42_{number}" for number in range(2, 100))]:
        (site.results / name).write_bytes(b"")
    assert open_name(site) == "42_t-42"
    assert open_name(site) == "42_t-42"
    assert open_name(site, Claim(42, "another tag", 0)).startswith("42_")  # no plain name


@pytest.mark.parametrize("tag", ["t-42", "", "../../elsewhere", "x" * 300])
def test_a_name_that_nobody_can_guess_comes_last(site: Site, tag: str) -> None:
    for name in ["42", "42_t-42", *(f"42_{number}" for number in range(2, 100))]:
        (site.results / name).write_bytes(b"")
    found = open_name(site, Claim(42, tag, 0))
    assert re.fullmatch("42_[0-9a-f]{16}", found)
    assert open_name(site, Claim(42, tag, 0), chosen=found) == found
