"""What other nodes of a job have goes into the same result folder, before it is complete."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bridge.results import delivery

from .conftest import UID, Site, fingerprint, run_as


@pytest.fixture
def further(site: Site) -> Site:
    """The same job on another node; `results` is the same NAS."""
    other = Site(site.root / "other")
    other.outputs.mkdir(parents=True)
    other.own(other.out)
    other.root.chmod(0o711)
    return other


def deliver(further: Site, site: Site, node: str = "n2", **changes: Any) -> dict[str, Any]:
    request = {**further.plan(results=str(site.results), node=node), **changes}
    answer: dict[str, Any] = run_as(UID, lambda: delivery.main(request))
    return answer


def summary_of(site: Site) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((site.folder / "job_summary.json").read_bytes())
    return content


def test_what_another_node_has_is_in_a_folder_of_its_name_and_verifies(
    site: Site, further: Site
) -> None:
    site.write("outputs/rank", b"0\n")
    further.write("outputs/rank", b"1\n")
    further.write("outputs/deep/er\nfile", b"x" * 5000)
    answer = deliver(further, site)
    assert answer == {"ok": True, "folder": "42", "files": 2, "bytes": 5002, "skipped": 0}
    assert not (site.folder / "job_summary.json").exists()
    assert site.publish()["files"] == 3
    site.assert_complete()
    assert (site.folder / "outputs/rank").read_bytes() == b"0\n"
    assert fingerprint(site.folder / "outputs/n2") == fingerprint(further.outputs)
    listed = (site.folder / "checksums.txt").read_text()
    assert "  outputs/n2/rank\n" in listed
    assert summary_of(site)["outputs"] == {"path": "outputs", "files": 3, "bytes": 5004}


def test_several_nodes_deliver_in_any_order_and_again(site: Site, further: Site) -> None:
    further.write("outputs/x", b"1")
    assert deliver(further, site, "n3")["ok"]
    assert deliver(further, site, "n2")["ok"]
    further.write("outputs/x", b"22")
    assert deliver(further, site, "n3")["ok"]
    site.publish()
    site.assert_complete()
    assert summary_of(site)["outputs"]["files"] == 2
    assert (site.folder / "outputs/n2/x").read_bytes() == b"1"
    assert (site.folder / "outputs/n3/x").read_bytes() == b"22"


def test_what_is_left_out_there_stands_in_the_summary(site: Site, further: Site) -> None:
    further.write("outputs/x")
    os.symlink("/etc/passwd", further.outputs / "link")
    (further.outputs / "x").chmod(0o000)
    further.own(further.out)
    assert deliver(further, site)["skipped"] == 1
    site.publish()
    site.assert_complete()
    content = summary_of(site)
    skipped = [(entry["path"], entry["kind"]) for entry in content["skipped"]]
    assert skipped == [("outputs/n2/link", "symlink")]
    assert [entry["path"] for entry in content["notes"]] == ["outputs/n2/x"]
    assert (content["skipped_count"], content["notes_count"]) == (1, 1)


def test_a_complete_folder_takes_nothing_more(site: Site, further: Site) -> None:
    site.publish()
    further.write("outputs/x")
    answer = deliver(further, site)
    assert (answer["ok"], answer["retry"]) == (False, False)
    assert "completed before" in answer["reason"]
    site.assert_complete()
    assert not (site.folder / "outputs/n2").exists()


def test_a_delivery_that_failed_half_way_is_made_good_by_the_next_try(
    site: Site, further: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    further.write("outputs/a", b"a")
    further.write("outputs/b", b"b")
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "_record", lambda _: os._exit(3))
        assert deliver(further, site) == "died 3"
    assert deliver(further, site)["ok"]
    site.publish()
    site.assert_complete()
    assert summary_of(site)["outputs"]["files"] == 2


def test_a_crash_before_the_last_step_leaves_nothing_behind(
    site: Site, further: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    further.write("outputs/a", b"a")
    deliver(further, site)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "forget", lambda _: os._exit(3))
        assert site.publish() == "died 3"
    assert site.publish()["already"] is True
    site.assert_complete()


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'{"files": "x", "bytes": -1, "skipped": [1, ["a"], ["p", "no kind"]], "notes": 3}',
    ],
)
def test_a_record_that_its_owner_spoilt_spoils_nothing_else(
    site: Site, further: Site, record: bytes
) -> None:
    further.write("outputs/a", b"a")
    deliver(further, site)
    (site.folder / ".node-n2").write_bytes(record)
    assert site.publish()["ok"] is True
    site.assert_complete()
    assert summary_of(site)["outputs"]["files"] == 0


def test_no_link_of_the_owners_is_followed(site: Site, further: Site) -> None:
    further.write("outputs/a", b"a")
    secret = site.root / "elsewhere"
    secret.mkdir()
    site.own(secret)
    deliver(further, site)
    shutil.rmtree(site.folder / "outputs")
    (site.folder / "outputs").symlink_to(secret)
    assert deliver(further, site)["skipped"] == 1
    assert list(Path(secret).iterdir()) == []
    site.publish()
    skipped = {entry["path"]: entry["kind"] for entry in summary_of(site)["skipped"]}
    assert skipped["outputs/n2"] == "in_the_way"


@pytest.mark.parametrize("kind", ["nothing", "link", "folder", "pipe"])
def test_lines_that_the_owner_took_away_are_not_waited_for(
    site: Site, further: Site, kind: str
) -> None:
    further.write("outputs/a", b"a")
    deliver(further, site)
    lines = site.folder / ".sums-n2"
    lines.unlink()
    if kind == "link":
        lines.symlink_to("/etc/passwd")
    elif kind == "folder":
        lines.mkdir()
    elif kind == "pipe":
        os.mkfifo(lines)
    assert site.publish()["ok"] is True
    if kind == "folder":
        lines.rmdir()
    site.assert_complete()
