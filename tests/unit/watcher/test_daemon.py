"""The watcher as a process, on a site in a folder, with scripts that stand for Slurm."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from datetime import datetime

import pytest

from bridge import as_user, config, request
from tests.unit.watcher.watched_site import GOOD, LOST, NOT_REACHED, wait_for
from watcher import daemon
from watcher import scan as scan_module


@pytest.fixture
def running(site):
    site.start()
    site.wait_for_event("watcher_started")
    return site


def wait_processed(site, *names):
    wait_for(lambda: site.processed.exists() and site.names(site.processed), "it is processed")
    wait_for(lambda: site.names(site.submit) == [".sbridge"], "submit/ is empty")
    wait_for(lambda: not site.names(site.claims), "no claim is left")
    expected = sorted(name for one in names for name in (one, f"{one}.receipt.json"))
    assert site.names(site.processed) == expected


# The way of a job file


def test_a_dropped_file_is_submitted_once_and_gets_a_receipt(running):
    site = running
    began = time.time()
    site.drop("hello.sh", b"#!/bin/sh\n#SBATCH --comment='my own' -o x\nls\n")
    wait_processed(site, "1_hello.sh")
    receipt = json.loads((site.processed / "1_hello.sh.receipt.json").read_text())
    assert (receipt["job_id"], receipt["owner"]) == (1, site.user.name)
    assert receipt["job_file"] == "hello.sh"
    assert receipt["results"] == str(site.root / "results/1")
    content = (site.processed / "1_hello.sh").read_bytes()
    assert receipt["sha256"] == hashlib.sha256(content).hexdigest()
    assert (site.slurm / "script").read_bytes() == content
    assert [warning["code"] for warning in receipt["warnings"]] == ["output_redirected"]
    assert set(receipt["warnings"][0]["text"]) == {"en", "ko"}
    assert site.jobs() == [f"my own sbridge1?tag={receipt['tag']}&file=hello.sh"]
    submitted = datetime.fromisoformat(receipt["submitted_at"]).timestamp()
    assert began - 1 < submitted <= time.time()
    assert (site.processed / "1_hello.sh").stat().st_uid == site.user.uid


def test_the_log_tells_the_way_with_name_tag_owner_and_job(running):
    site = running
    site.drop("hello.sh")
    (submitted,) = site.wait_for_event("job_submitted")
    (claimed,) = site.log("job_file_claimed")
    assert submitted["tag"] == claimed["tag"]
    assert (submitted["name"], submitted["owner"]) == ("hello.sh", site.user.name)
    assert (submitted["job_id"], submitted["outcome"]) == (1, "submitted")
    assert submitted["duration_s"] < 5


def test_files_that_were_there_before_the_watcher_are_taken_oldest_first(site):
    for name in ("c.sh", "a.sh", "b.sh"):
        site.drop(name)
        time.sleep(0.02)  # file systems tell times in ticks of some milliseconds
    site.settings["watcher"]["parallel_submissions"] = 1
    site.start()
    wait_processed(site, "1_c.sh", "2_a.sh", "3_b.sh")


@pytest.fixture
def free_inotify():
    """A kubelet takes over twenty of the instances that root may have."""
    try:
        daemon.INotify().close()
    except OSError as error:
        pytest.skip(f"the machine gives no inotify instance ({error.strerror})")


@pytest.mark.usefixtures("free_inotify")
def test_inotify_takes_a_file_at_once(site):
    site.settings["watcher"] |= {"scan_interval_s": 3600.0, "settle_s": 3600.0}
    site.start()
    site.wait_for_event("watcher_started")
    site.drop("moved.sh")
    wait_processed(site, "1_moved.sh")
    written = ["sh", "-c", 'printf "#!/bin/sh\nls\n" > "$1"', "-", str(site.submit / "written.sh")]
    user = {"user": site.user.uid, "group": site.user.gid} if os.geteuid() == 0 else {}
    subprocess.run(written, check=True, **user)
    wait_processed(site, "1_moved.sh", "2_written.sh")


@pytest.mark.usefixtures("free_inotify")
def test_what_comes_while_the_first_scan_ends_is_not_missed(site, monkeypatch):
    """After the scan has listed the folder, and before the watcher knows of its watch."""
    scan = scan_module.scan

    def scan_and_drop(nas, inotify):
        found = scan(nas, inotify)
        site.drop("late.sh")
        return found

    monkeypatch.setattr(scan_module, "scan", scan_and_drop)
    site.settings["watcher"] |= {"scan_interval_s": 3600.0, "settle_s": 3600.0}
    site.start()
    wait_processed(site, "1_late.sh")


def test_a_scan_finds_what_inotify_does_not_see(site):
    """As what another NFS client drops: here, a watch on a folder that is not there."""
    site.start()
    site.wait_for_event("watcher_started")
    site.root.joinpath("submit").rename(site.root / "elsewhere")
    site.wait_for_event("nas_unreachable")
    site.make(site.root / "elsewhere/hello.sh")
    site.root.joinpath("elsewhere").rename(site.root / "submit")
    wait_processed(site, "1_hello.sh")


def test_a_machine_without_a_free_inotify_is_scanned_until_it_has_one(site, monkeypatch):
    tries = iter(range(100))
    make = daemon.INotify

    def scarce(**options):
        if next(tries) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return make(**options)

    monkeypatch.setattr(daemon, "INotify", scarce)
    site.settings["watcher"]["scan_interval_s"] = 0.3
    site.start()
    (unavailable,) = site.wait_for_event("inotify_unavailable")
    assert "fs.inotify.max_user_instances" in unavailable["reason"]
    site.drop("hello.sh")
    wait_processed(site, "1_hello.sh")
    site.wait_for_event("inotify_available")


def test_a_file_that_still_grows_is_left_alone(site):
    site.settings["watcher"]["settle_s"] = 0.4
    path = site.drop("grows.sh", b"#!/bin/sh\n")
    site.start()
    site.wait_for_event("watcher_started")
    with path.open("ab", buffering=0) as file:
        for number in range(10):
            file.write(b"echo %d\n" % number)
            time.sleep(0.1)  # the subject: a writer that takes longer than settle_s
            assert path.exists()
        file.close()
    wait_processed(site, "1_grows.sh")
    assert (site.slurm / "script").read_bytes().endswith(b"echo 9\n")


def test_an_empty_file_is_given_time_to_be_filled(site):
    site.settings["watcher"]["settle_s"] = 0.6
    site.start()
    site.wait_for_event("watcher_started")
    path = site.drop("late.sh", b"")
    wait_for(lambda: len(site.log("child_ended")) > 3, "it was looked at")
    assert path.exists()
    path.write_bytes(GOOD)
    wait_processed(site, "1_late.sh")


def test_the_same_name_twice_is_two_jobs(running):
    site = running
    site.steer("hold-after")
    site.drop("hello.sh")
    wait_for(lambda: len(site.jobs()) == 1)
    site.drop("hello.sh", b"#!/bin/sh\necho the other\n")
    (site.slurm / "hold-after").unlink()
    wait_processed(site, "1_hello.sh", "2_hello.sh")


def test_many_files_at_once_are_one_job_each(running):
    site = running
    for number in range(40):
        site.drop(f"{number}.sh")
    site.wait_for_event("job_submitted", 40)
    tags = {request.find(comment).tag for comment in site.jobs()}
    assert len(site.jobs()) == len(tags) == 40
    names = {path.name.split("_")[1] for path in site.processed.glob("*.sh")}
    assert names == {f"{number}.sh" for number in range(40)}


def test_strange_names_go_all_the_way(running):
    site = running
    strange = [
        "실험 1 (복사본).sh",
        "a'b\"c$x;y.sh",
        "new\nline.sh",
        "-rf.sh",
        "no-suffix",
        "x" * 255,
        os.fsdecode(b"caf\xe9.sh"),
    ]
    for name in strange:
        site.drop(name)
    submitted = site.wait_for_event("job_submitted", len(strange))
    found = [path.name for path in site.processed.iterdir()]
    filed = [name.partition("_")[2] for name in found if not name.endswith(".receipt.json")]
    (shortened,) = set(filed) - set(strange)
    assert {*filed, "x" * 255} - {shortened} == set(strange)
    assert shortened.startswith("x" * 200)
    for line in submitted:
        assert "\n" not in line["name"]
    receipts = [json.loads(path.read_text()) for path in site.processed.glob("*.receipt.json")]
    assert {receipt["job_id"] for receipt in receipts} == {*range(1, len(strange) + 1)}


def test_what_programs_leave_behind_is_passed_over_in_silence(running):
    site = running
    ignored = [".hidden", "Thumbs.db", "desktop.ini", "~$doc.sh", "x.tmp", "x.part", ".~lock.x#"]
    for name in ignored:
        site.drop(name)
    site.drop("hello.sh")
    site.wait_for_event("job_submitted")
    assert site.names(site.submit) == sorted([".sbridge", *ignored])
    assert not site.log("job_file_refused")


def test_a_file_that_its_owner_takes_back_is_no_trouble(site):
    site.settings["watcher"]["settle_s"] = 0.5
    path = site.drop("hello.sh")
    site.start()
    site.wait_for_event("watcher_started")
    path.unlink()
    site.drop("other.sh")
    wait_processed(site, "1_other.sh")
    assert not site.log("job_file_put_off")


# What is refused


def test_a_bad_file_goes_to_failed_with_an_error_file(running):
    site = running
    bad = {
        "no_shebang": b"echo\n",
        "windows_line_ends": b"#!/bin/sh\r\nls\r\n",
        "empty": b"",
        "binary": b"\x7fELF\0\0",
        "unknown_directive_like": b"#!/bin/sh\n#K8S_IMGE=a\nls\n",
        "script_missing": b"#!/bin/sh\n#K8S_SCRIPT=/nonexistent.py\n",
        "runtime_not_offered": b"#!/bin/sh\n#K8S_RUNTIME=host\nls\n",
    }
    for finding, content in bad.items():
        site.drop(f"{finding} file.sh", content)
    for refused in site.wait_for_event("job_file_refused", len(bad)):
        (finding,) = refused["findings"]
        name = f"{finding} file.sh"
        assert refused["name"] == refused["filed_as"] == name
        assert (site.failed / name).read_bytes() == bad[finding]
        error = site.failed / f"{name}.error.txt"
        assert error.stat().st_uid == site.user.uid
        text = error.read_text()
        assert f"{name} was not submitted." in text
        assert f"{name} 파일은 제출되지 않았습니다" in text
    assert site.calls() == 0


def test_what_sbatch_refuses_goes_to_failed_with_its_own_words(running):
    site = running
    said = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    site.steer("refusal", said)
    site.drop("hello.sh")
    (refused,) = site.wait_for_event("job_file_refused")
    assert refused["findings"] == ["sbatch_refused"]
    text = (site.failed / "hello.sh.error.txt").read_text()
    assert text.count(said) == 2  # once in each language
    assert site.calls() == 1


def test_an_error_file_is_in_the_sites_language(site):
    site.settings["messages"] = {"languages": ["ko"]}
    site.start()
    site.drop("hello.sh", b"ls\n")
    site.wait_for_event("job_file_refused")
    text = (site.failed / "hello.sh.error.txt").read_text()
    assert "제출되지 않았습니다" in text
    assert "was not submitted" not in text


def test_a_folder_a_link_and_a_pipe_go_to_failed_and_are_not_followed(site):
    outside = site.root / "outside"
    outside.write_bytes(GOOD)
    link = site.root / "link"
    link.symlink_to(outside)
    site.move_in(link, site.submit / "link.sh")
    pipe = site.root / "pipe"
    os.mkfifo(pipe)
    site.move_in(pipe, site.submit / "pipe.sh")
    folder = site.root / "folder"
    folder.mkdir()
    (folder / "inside.sh").write_bytes(GOOD)
    site.move_in(folder, site.submit / "folder.sh").chmod(0o555)
    site.start()
    refused = site.wait_for_event("job_file_refused", 3)
    found = {line["name"]: line["findings"] for line in refused}
    assert found == {
        "link.sh": ["is_symlink"],
        "pipe.sh": ["is_special"],
        "folder.sh": ["is_directory"],
    }
    assert (site.failed / "link.sh").readlink() == outside
    assert (site.failed / "folder.sh/inside.sh").exists()
    assert outside.read_bytes() == GOOD
    assert site.calls() == 0


def test_a_hard_linked_file_is_refused(running):
    site = running
    original = site.make(site.root / "original.sh")
    os.link(original, site.submit / "linked.sh")
    (refused,) = site.wait_for_event("job_file_refused")
    assert refused["findings"] == ["hard_linked"]
    assert site.calls() == 0


def test_a_file_of_a_system_account_is_refused(site):
    site.settings["watcher"]["min_uid"] = site.user.uid + 1
    site.start()
    site.drop("hello.sh")
    (refused,) = site.wait_for_event("job_file_refused")
    assert refused["findings"] == ["owner_is_system"]
    assert site.calls() == 0


def test_a_refused_name_never_overwrites_another_one(site):
    site.make(site.failed / "hello.sh", b"mine")
    site.make(site.failed / "hello (2).sh.error.txt", b"mine too")
    site.start()
    site.drop("hello.sh", b"ls\n")
    (refused,) = site.wait_for_event("job_file_refused")
    assert refused["filed_as"] == "hello (3).sh"
    assert (site.failed / "hello.sh").read_bytes() == b"mine"
    assert (site.failed / "hello (2).sh.error.txt").read_bytes() == b"mine too"
    assert (site.failed / "hello (3).sh.error.txt").exists()


# Trouble


def test_while_slurm_is_away_files_wait_and_bad_ones_are_told_at_once(running):
    site = running
    refusal = site.steer("refusal", NOT_REACHED)
    site.drop("first.sh")
    site.wait_for_event("slurm_unreachable")
    site.drop("second.sh")
    site.drop("bad.sh", b"ls\n")
    site.wait_for_event("job_file_refused")
    assert (site.submit / "second.sh").exists()
    refusal.unlink()
    site.wait_for_event("job_submitted", 2)
    assert len(site.jobs()) == 2
    assert len(site.log("slurm_unreachable")) == len(site.log("slurm_reachable")) == 1


def test_a_lost_answer_is_settled_by_asking_for_the_tag(running):
    site = running
    lost = site.steer("lost-answer", LOST)
    site.drop("hello.sh")
    site.wait_for_event("submission_doubtful")
    lost.unlink()
    wait_processed(site, "1_hello.sh")
    assert len(site.jobs()) == site.calls() == 1
    assert site.log("submission_found")[0]["job_id"] == 1


def test_a_lost_request_is_submitted_again_when_slurm_denied_it_long_enough(running):
    site = running
    refusal = site.steer("refusal", LOST)
    site.drop("hello.sh")
    site.wait_for_event("submission_doubtful")
    refusal.unlink()
    wait_processed(site, "1_hello.sh")
    assert (len(site.jobs()), site.calls()) == (1, 2)
    assert len(site.log("submission_not_found")) == 1


def test_a_slurm_that_cannot_be_asked_settles_nothing(running):
    site = running
    down = site.steer("down", NOT_REACHED)
    lost = site.steer("lost-answer", LOST)
    site.drop("hello.sh")
    (failed,) = site.wait_for_event("slurm_lookup_failed")
    assert "Unable to contact slurm controller" in failed["reason"]
    lost.unlink()
    assert len(site.names(site.claims)) == 1
    down.unlink()
    wait_processed(site, "1_hello.sh")
    assert len(site.jobs()) == 1


def test_an_sbatch_that_hangs_is_ended_and_asked_for(site):
    site.settings["watcher"]["sbatch_timeout_s"] = 1.0
    site.start()
    hold = site.steer("hold-after")
    site.drop("hello.sh")
    site.wait_for_event("submission_doubtful")
    hold.unlink()
    wait_processed(site, "1_hello.sh")
    assert len(site.jobs()) == 1


def test_a_full_processed_folder_loses_nothing_and_submits_nothing_twice(running):
    site = running
    shutil.rmtree(site.processed)
    site.wait_for_event("nas_unreachable")
    site.processed.mkdir()
    site.processed.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(site.processed, 0, 0)
    site.wait_for_event("nas_reachable")
    site.drop("hello.sh")
    (put_off,) = site.wait_for_event("job_file_put_off")
    assert (put_off["job_id"], "Permission denied" in put_off["reason"]) == (1, True)
    site.processed.chmod(0o1777)
    wait_processed(site, "1_hello.sh")
    assert len(site.jobs()) == site.calls() == 1


def test_a_state_folder_that_fails_is_waited_for(running):
    site = running
    locks = site.root / "state/locks"
    locks.rename(site.root / "gone")
    site.drop("hello.sh")
    (put_off,) = site.wait_for_event("job_file_put_off")
    assert f"watcher.state_dir: {locks}/" in put_off["reason"]
    (site.root / "gone").rename(locks)
    wait_processed(site, "1_hello.sh")


def test_a_nas_that_is_not_there_at_the_start_is_waited_for(site):
    shutil.rmtree(site.submit)
    site.start()
    (unreachable,) = site.wait_for_event("nas_unreachable")
    assert str(site.submit) in unreachable["reason"]
    site.submit.mkdir()
    site.submit.chmod(0o1777)
    site.wait_for_event("nas_reachable")
    site.drop("hello.sh")
    wait_processed(site, "1_hello.sh")
    assert len(site.log("nas_unreachable")) == 1


def test_a_nas_that_hangs_does_not_stop_the_watcher(site, monkeypatch):
    scan = scan_module.scan

    def hang(nas, inotify):
        wait_for(lambda: not (site.root / "hang").exists())
        return scan(nas, inotify)

    monkeypatch.setattr(scan_module, "scan", hang)
    (site.root / "hang").touch()
    site.settings["watcher"]["nas_timeout_s"] = 1.0
    site.drop("hello.sh")
    site.start()
    (unreachable,) = site.wait_for_event("nas_unreachable")
    assert "did not answer within 1 s" in unreachable["reason"]
    (site.root / "hang").unlink()
    wait_processed(site, "1_hello.sh")
    assert len(site.log("nas_unreachable")) == len(site.log("nas_reachable")) == 1


def test_a_claim_folder_that_a_user_made_is_not_trusted(site):
    if os.geteuid() != 0:
        pytest.skip("needs root: the folder's owner must be somebody else")
    folder = site.root / "made-by-user"
    folder.mkdir()
    site.move_in(folder, site.claims)
    site.start()
    (unreachable,) = site.wait_for_event("nas_unreachable")
    assert f"belongs to uid {site.user.uid} and not to sbridge" in unreachable["reason"]


# kill -9


def test_killed_before_the_claim(site):
    site.drop("hello.sh")
    site.start()
    site.kill()
    site.start()
    wait_processed(site, "1_hello.sh")
    assert len(site.jobs()) == 1


def test_killed_after_the_claim_and_before_sbatch(site):
    site.claims.mkdir()
    site.make(site.claims / f"{'a' * 32}.hello.sh")
    site.start()
    wait_processed(site, "1_hello.sh")
    assert site.jobs() == [f"sbridge1?tag={'a' * 32}&file=hello.sh"]
    assert len(site.log("submission_not_found")) == 1


@pytest.mark.parametrize("moment", ["hold-before", "hold-after"])
def test_killed_during_sbatch_which_goes_on(site, moment):
    """The child and its sbatch live on and hold the tag's lock."""
    hold = site.steer(moment)
    site.start()
    site.wait_for_event("watcher_started")
    site.drop("hello.sh")
    wait_for(site.calls)
    site.kill()
    site.start()
    site.wait_for_event("watcher_started", 2)
    site.drop("other.sh", b"ls\n")
    site.wait_for_event("job_file_refused")
    time.sleep(0.5)  # longer than doubt_settle_s: a watcher that asked too early would submit
    hold.unlink()
    wait_processed(site, "1_hello.sh")
    assert (len(site.jobs()), site.calls()) == (1, 1)


@pytest.mark.parametrize(("moment", "jobs"), [("hold-before", 0), ("hold-after", 1)])
def test_killed_with_all_its_children_during_sbatch(site, moment, jobs):
    hold = site.steer(moment)
    site.start()
    site.wait_for_event("watcher_started")
    site.drop("hello.sh")
    wait_for(site.calls)
    wait_for(lambda: len(site.jobs()) == jobs)
    children = children_of(site.watchers[-1].pid)
    site.kill()
    for session in children:
        os.killpg(session, signal.SIGKILL)
    hold.unlink()
    site.start()
    wait_processed(site, "1_hello.sh")
    assert (len(site.jobs()), site.calls()) == (1, 2 - jobs)


def test_killed_before_it_is_put_away(site):
    tag = "b" * 32
    site.steer("jobs", f"41|1700000000|x sbridge1?tag={tag}\n")
    site.claims.mkdir()
    site.make(site.claims / f"{tag}.hello.sh")
    site.start()
    wait_processed(site, "41_hello.sh")
    receipt = json.loads((site.processed / "41_hello.sh.receipt.json").read_text())
    assert (receipt["tag"], receipt["submitted_at"]) == (tag, "2023-11-14T22:13:20+00:00")
    assert site.calls() == 0


def test_killed_between_the_receipt_and_the_move(site):
    tag = "c" * 32
    site.steer("jobs", f"42|1700000000|sbridge1?tag={tag}\n")
    site.claims.mkdir()
    site.make(site.claims / f"{tag}.hello.sh")
    site.make(site.processed / "42_hello.sh.receipt.json", f'{{"tag": "{tag}"}}'.encode())
    site.start()
    wait_processed(site, "42_hello.sh")
    assert site.calls() == 0


def test_somebody_elses_file_in_the_claim_folder_does_no_harm(site):
    site.claims.mkdir()
    site.make(site.claims / "note.txt", b"hello")
    site.start()
    site.wait_for_event("watcher_started")
    site.drop("hello.sh")
    site.wait_for_event("job_submitted")
    assert site.names(site.claims) == ["note.txt"]


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


# One user and the others


@pytest.fixture
def other(site):
    """Give a second user; only root can have files of two."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make files of two users")
    for name in ("script", "calls", "jobs"):
        site.steer(name)  # both write to them
    return as_user.find_user(site.user.uid + 1)


def children_that_are(user, watcher):
    return [pid for pid in children_of(watcher.pid) if uid_of(pid) == user.uid]


def uid_of(pid):
    with open(f"/proc/{pid}/status") as file:
        (line,) = [line for line in file if line.startswith("Uid:")]
    return int(line.split()[1])


def test_a_user_who_stops_his_children_stops_nobody_elses_files(site, other):
    share = config.Watcher().parallel_submissions // 2
    hold = site.steer("hold-before")
    watcher = site.start()
    site.wait_for_event("watcher_started")
    for number in range(3 * share):
        site.drop(f"{number}.sh")
    wait_for(lambda: site.calls() >= share, "his share of sbatch runs")
    site.wait_for_event("child_ended", 3)  # scans: it had time to begin more of his
    stopped = children_that_are(site.user, watcher)
    assert len(stopped) == site.calls() == share
    for pid in stopped:
        os.killpg(pid, signal.SIGSTOP)
    hold.unlink()
    site.drop("of-another.sh", user=other)
    (submitted,) = site.wait_for_event("job_submitted")
    assert (submitted["name"], submitted["owner"]) == ("of-another.sh", other.name)
    for pid in stopped:
        os.killpg(pid, signal.SIGKILL)
    site.wait_for_event("job_submitted", 3 * share + 1)
    assert len(site.jobs()) == 3 * share + 1


def test_a_user_who_kills_his_sbatch_closes_slurm_to_nobody_else(site, other):
    hold = site.steer("hold-before")
    watcher = site.start()
    site.wait_for_event("watcher_started")
    site.drop("killed.sh")
    wait_for(site.calls, "sbatch runs")
    (child,) = children_that_are(site.user, watcher)
    (sbatch,) = children_of(child)
    os.kill(sbatch, signal.SIGKILL)
    site.wait_for_event("submission_doubtful")
    wait_for(lambda: site.calls() == 2, "he is tried again")
    for pid in children_that_are(site.user, watcher):
        os.killpg(pid, signal.SIGSTOP)
    hold.unlink()
    site.drop("of-another.sh", user=other)
    (submitted,) = site.wait_for_event("job_submitted")
    assert submitted["owner"] == other.name
    for pid in children_that_are(site.user, watcher):
        os.killpg(pid, signal.SIGKILL)
    site.wait_for_event("job_submitted", 2)
    assert len(site.jobs()) == 2


# Start and end


def test_a_second_watcher_ends_with_a_clear_error(running):
    site = running
    second = site.start()
    assert second.wait() == 1
    assert "another sbridge-watcher is running" in second.stderr()
    site.drop("hello.sh")
    wait_processed(site, "1_hello.sh")


def test_sigterm_ends_it_soon_and_a_submission_under_way_is_brought_to_an_end(running):
    site = running
    hold = site.steer("hold-after")
    site.drop("hello.sh")
    wait_for(site.jobs)
    site.watchers[-1].signal(signal.SIGTERM)
    time.sleep(0.2)  # the watcher waits for the submission
    hold.unlink()
    assert site.watchers[-1].wait() == 0
    assert site.names(site.processed) == ["1_hello.sh", "1_hello.sh.receipt.json"]
    assert site.log()[-1]["event"] == "watcher_stopped"


def test_sigterm_ends_it_within_five_seconds_and_leaves_no_process(site, monkeypatch):
    assert daemon._LAST_WORK_S < 4
    monkeypatch.setattr(daemon, "_LAST_WORK_S", 0.3)
    site.start()
    site.wait_for_event("watcher_started")
    site.steer("hold-after")
    site.drop("hello.sh")
    wait_for(site.jobs)
    sessions = children_of(site.watchers[-1].pid)
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 5
    for session in sessions:
        wait_for(lambda session=session: not is_alive(session))


def is_alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_systemd_is_told_that_it_is_ready_and_alive(site):
    address = str(site.root / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(20)
        site.start(NOTIFY_SOCKET=address, WATCHDOG_USEC="400000")
        heard = {systemd.recv(100)}
        while heard != {b"READY=1", b"WATCHDOG=1"}:
            heard.add(systemd.recv(100))
        site.watchers[-1].signal(signal.SIGTERM)
        while b"STOPPING=1" not in heard:
            heard.add(systemd.recv(100))


def test_a_faulty_configuration_is_told_on_stderr_with_exit_code_78(site):
    site.settings["watcher"]["settel_s"] = 1
    watcher = site.start()
    assert watcher.wait() == 78
    text = watcher.stderr()
    assert "unknown key watcher.settel_s" in text
    assert "Did you mean watcher.settle_s?" in text


def test_a_state_folder_that_cannot_be_made_is_a_faulty_configuration(site):
    (site.root / "file").write_text("")
    site.settings["watcher"]["state_dir"] = str(site.root / "file/state")
    watcher = site.start()
    assert watcher.wait() == 78
    assert "watcher.state_dir" in watcher.stderr()


def test_an_idle_watcher_sleeps(site):
    site.settings["watcher"]["scan_interval_s"] = 3600.0
    site.start()
    site.wait_for_event("watcher_started")
    pid = site.watchers[-1].pid

    def switches() -> int:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["voluntary_ctxt_switches"])

    before = switches()
    time.sleep(0.5)
    assert switches() - before <= 2


def test_no_lock_and_no_descriptor_is_left(running):
    site = running
    pid = site.watchers[-1].pid

    def descriptors():
        """Some of them come and go with a scan that happens to be under way."""
        return len(os.listdir(f"/proc/{pid}/fd"))

    site.drop("first.sh")
    site.wait_for_event("job_submitted")
    before = descriptors()
    for number in range(10):
        site.drop(f"{number}.sh")
    site.wait_for_event("job_submitted", 11)
    wait_for(lambda: descriptors() <= before, f"no more than {before} descriptors")
    wait_for(lambda: not site.names(site.root / "state/locks"))
