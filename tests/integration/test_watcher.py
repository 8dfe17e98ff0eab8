"""From submit/ to sbatch on a real Slurm: users, bad files, crashes, and a NAS that hangs."""

import contextlib
import ctypes
import json
import os
import re
import secrets
import signal
import time
from pathlib import Path

import pytest

from bridge.config import Slurm
from bridge.slurm.lookup import SubmissionLookup
from validator import header
from watcher.names import CLAIMS

pytestmark = pytest.mark.slurm

HELD = "#!/bin/bash\n#SBATCH --hold\necho hello\n"


class WatcherLog:
    """The events that the watcher logged since this object was made."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._path = cluster.logs / "watcher.log"
        self._start = self._path.stat().st_size

    def events(self, name):
        with self._path.open("rb") as file:
            file.seek(self._start)
            lines = [json.loads(line) for line in file.read().splitlines()]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, name, count=1):
        self._cluster.wait_for(lambda: len(self.events(name)) >= count, 90, f"{count} × {name}")
        return self.events(name)


@pytest.fixture
def log(cluster):
    return WatcherLog(cluster)


@pytest.fixture(autouse=True)
def nothing_is_left_over(cluster):
    """No test leaves a claim, a drained node or a dead watcher behind."""
    yield
    cluster.slurm("scancel", "--user=alice")
    cluster.slurm("scancel", "--user=bob")
    cluster.wait_for(
        lambda: not list((cluster.submit / CLAIMS).iterdir()), what="claims are settled"
    )
    assert cluster.drained_nodes() == {}
    os.kill(cluster.pids()["watcher"], 0)


def receipt_of(cluster, event):
    return json.loads((cluster.processed / f"{event['filed_as']}.receipt.json").read_text())


def jobs_with(cluster, tag):
    rows = cluster.slurm("squeue", "-h", "-a", "-t", "all", "-o", "%A %k").splitlines()
    return [int(row.split()[0]) for row in rows if f"tag={tag}" in row]


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# The way of a job file


def test_a_dropped_file_becomes_its_owners_job(cluster, log, shared_dir):
    folder = shared_dir("alice")
    body = f"{{ id -un; umask; pwd; env; }} > {folder}/facts\n"
    body = f"#!/bin/bash\n#SBATCH --comment='my own words'\n{body}"
    cluster.drop("alice", "실험 1 (복사본).sh", body)
    (submitted,) = log.wait_for("job_submitted")
    job_id, tag = submitted["job_id"], submitted["tag"]
    assert cluster.wait_job(job_id) == "COMPLETED"
    user, umask, pwd, *environment = (folder / "facts").read_text().splitlines()
    assert (user, umask, pwd) == ("alice", "0022", str(cluster.home("alice")))
    assert f"HOME={cluster.home('alice')}" in environment
    assert not [
        line for line in environment if re.match("SBATCH_|SBRIDGE_CONFIG|NOTIFY_|LC_ALL", line)
    ]
    assert cluster.job_field(job_id, "JobName") == "실험"  # job_field ends at a blank
    assert cluster.job_field(job_id, "Comment").startswith("my own words sbridge1?")
    receipt = receipt_of(cluster, submitted)
    assert (receipt["job_id"], receipt["tag"], receipt["owner"]) == (job_id, tag, "alice")
    assert receipt["results"] == str(cluster.results / str(job_id))
    filed = cluster.processed / f"{job_id}_실험 1 (복사본).sh"
    assert filed.owner() == "alice"
    assert filed.read_text() == body


def test_what_the_header_names_is_not_overridden(cluster, log):
    header_lines = "#SBATCH -J mine -D /tmp -o /tmp/never\n"
    cluster.drop("alice", "named.sh", HELD.replace("echo", header_lines + "echo"))
    (submitted,) = log.wait_for("job_submitted")
    job_id = submitted["job_id"]
    assert cluster.job_field(job_id, "JobName") == "mine"
    assert cluster.job_field(job_id, "WorkDir") == "/tmp"
    assert cluster.job_field(job_id, "StdOut") != "/tmp/never"
    assert submitted["findings"] == ["output_redirected"]


def test_two_users_each_get_their_own_jobs(cluster, log):
    for user in ("alice", "bob"):
        cluster.drop(user, "same name.sh", HELD)
        log.wait_for("job_submitted", 1 if user == "alice" else 2)
    found = {line["owner"]: line for line in log.events("job_submitted")}
    assert set(found) == {"alice", "bob"}
    for user, line in found.items():
        assert cluster.job_field(line["job_id"], "UserId").startswith(f"{user}(")
        assert (cluster.processed / line["filed_as"]).owner() == user


def test_the_same_name_twice_is_two_jobs(cluster, log):
    cluster.drop("alice", "again.sh", HELD)
    cluster.drop("alice", "again.sh", HELD)
    first, second = log.wait_for("job_submitted", 2)
    assert first["job_id"] != second["job_id"]
    assert first["tag"] != second["tag"]


def test_an_array_is_one_submission(cluster, log):
    cluster.drop("alice", "array.sh", HELD.replace("echo", "#SBATCH -a 1-3\necho"))
    (submitted,) = log.wait_for("job_submitted")
    assert cluster.job_field(submitted["job_id"], "ArrayTaskId") == "1-3"


# What bad input gets


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("echo hello\n", "first line does not begin with #!"),
        ("#!/bin/bash\r\necho hello\r\n", "Windows line endings"),
        (b"", "The file is empty"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "not a text file"),
        ("#!/bin/bash\n#K8S_IMGE=alpine\nls\n", "Line 2: There is no directive K8S_IMGE. Did"),
        ("#!/bin/bash\n#SBATCH -p nosuch\nls\n", "Invalid partition name specified"),
        ("#!/bin/bash\n#SBATCH --ntasks=lots\nls\n", "ntasks"),
        ("#!/bin/bash\n#SBATCH --mem=1T\nls\n", "sbatch: error: "),
    ],
)  # fmt: skip
def test_a_bad_file_is_kept_with_a_clear_error_beside_it(cluster, log, content, sentence):
    cluster.drop("alice", "나쁜 파일.sh", content)
    (refused,) = log.wait_for("job_file_refused")
    filed = cluster.failed / refused["filed_as"]
    assert filed.read_bytes() == (content.encode() if isinstance(content, str) else content)
    error = filed.with_name(f"{filed.name}.error.txt")
    assert (filed.owner(), error.owner()) == ("alice", "alice")
    text = error.read_text()
    assert sentence in text
    assert "제출되지 않았습니다" in text


def test_a_folder_and_a_link_are_kept_and_not_followed(cluster, log):
    for argv in (["mkdir", "my folder"], ["ln", "-s", "/etc/passwd", "my link"]):
        cluster.as_user("alice", ["sh", "-c", f'cd "{cluster.submit}" && "$@"', "-", *argv])
    refused = {line["name"]: line["filed_as"] for line in log.wait_for("job_file_refused", 2)}
    assert (cluster.failed / refused["my folder"]).is_dir()
    assert (cluster.failed / refused["my link"]).readlink() == Path("/etc/passwd")
    text = (cluster.failed / f"{refused['my link']}.error.txt").read_text()
    assert "symbolic link" in text
    assert "root:" not in text


def test_root_submits_nothing(cluster, log):
    (cluster.submit / "root.sh").write_text(HELD)
    (refused,) = log.wait_for("job_file_refused")
    assert refused["findings"] == ["owner_is_system"]
    (cluster.failed / refused["filed_as"]).unlink()


def test_a_file_of_nobody_and_of_an_unknown_uid_is_refused(cluster, log):
    for uid in (65534, 54321):
        draft = cluster.submit / ".draft"
        draft.write_text(HELD)
        os.chown(draft, uid, uid)
        draft.rename(cluster.submit / f"{uid}.sh")
    refused = log.wait_for("job_file_refused", 2)
    assert {(line["name"], *line["findings"]) for line in refused} == {
        ("65534.sh", "owner_unknown"),
        ("54321.sh", "owner_unknown"),
    }
    assert {(cluster.failed / line["filed_as"]).stat().st_uid for line in refused} == {65534, 54321}


def test_a_link_to_somebody_elses_file_does_not_run_it(cluster, log, shared_dir):
    original = shared_dir("alice") / "alice.sh"
    original.write_text(HELD)
    cluster.give(original, user="alice")
    os.link(original, cluster.submit / "linked.sh")
    (refused,) = log.wait_for("job_file_refused")
    assert refused["findings"] == ["hard_linked"]


# kill -9


def test_killed_before_the_claim(cluster, log):
    cluster.kill("watcher")
    cluster.drop("alice", "early.sh", HELD)
    cluster.up()
    (submitted,) = log.wait_for("job_submitted")
    assert jobs_with(cluster, submitted["tag"]) == [submitted["job_id"]]


def test_killed_after_the_claim_and_before_sbatch(cluster, log):
    cluster.kill("watcher")
    tag = secrets.token_hex(16)
    path = cluster.drop("alice", ".claimed", HELD)
    path.rename(cluster.submit / CLAIMS / f"{tag}.claimed.sh")
    cluster.up()
    (submitted,) = log.wait_for("job_submitted")
    assert jobs_with(cluster, tag) == [submitted["job_id"]]
    assert log.events("submission_not_found")


def test_killed_before_it_is_put_away(cluster, log):
    cluster.kill("watcher")
    tag = secrets.token_hex(16)
    job_id = cluster.sbatch("alice", HELD, f"--comment=words sbridge1?tag={tag}")
    path = cluster.drop("alice", ".claimed", HELD)
    path.rename(cluster.submit / CLAIMS / f"{tag}.claimed.sh")
    cluster.up()
    (submitted,) = log.wait_for("job_submitted")
    assert submitted["job_id"] == job_id
    assert jobs_with(cluster, tag) == [job_id]


@pytest.mark.parametrize("with_children", [False, True], ids=["alone", "with its children"])
def test_killed_while_slurmctld_has_the_request(cluster, log, with_children):
    """slurmctld is stopped, so sbatch waits for its answer while the watcher dies."""
    slurmctld, watcher = cluster.pids()["slurmctld"], cluster.pids()["watcher"]
    os.kill(slurmctld, signal.SIGSTOP)
    try:
        cluster.drop("alice", "doubtful.sh", HELD)
        claims = cluster.submit / CLAIMS
        cluster.wait_for(lambda: list(claims.iterdir()), what="the file is claimed")
        cluster.wait_for(lambda: any(map(children_of, children_of(watcher))), what="sbatch runs")
        (claim,) = claims.iterdir()
        sessions = children_of(watcher)
        cluster.kill("watcher")
        if with_children:
            for session in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(session, signal.SIGKILL)
    finally:
        os.kill(slurmctld, signal.SIGCONT)
    cluster.up()
    cluster.wait_for(lambda: not list(claims.iterdir()), 90, "the doubt is settled")
    tag = claim.name.partition(".")[0]
    (job_id,) = jobs_with(cluster, tag)
    receipt = json.loads((cluster.processed / f"{job_id}_doubtful.sh.receipt.json").read_text())
    assert receipt["tag"] == tag


# Trouble


def test_a_slurmctld_that_is_down_is_waited_for(cluster, log):
    cluster.kill("slurmctld")
    cluster.drop("alice", "first.sh", HELD)
    log.wait_for("slurm_unreachable")
    cluster.drop("alice", "second.sh", HELD)
    cluster.drop("alice", "bad.sh", "ls\n")
    log.wait_for("job_file_refused")  # needs no Slurm
    cluster.up()
    submitted = log.wait_for("job_submitted", 2)
    for line in submitted:
        assert jobs_with(cluster, line["tag"]) == [line["job_id"]]
    assert len(log.events("slurm_unreachable")) == 1


def test_a_folder_that_vanishes_and_returns_is_waited_for(cluster, log):
    elsewhere = cluster.submit.with_name("elsewhere")
    cluster.submit.rename(elsewhere)
    try:
        (unreachable,) = log.wait_for("nas_unreachable")
        assert f"nas.submit: {cluster.submit}: No such file or directory" in unreachable["reason"]
    finally:
        elsewhere.rename(cluster.submit)
    log.wait_for("nas_reachable")
    cluster.drop("alice", "late.sh", HELD)
    log.wait_for("job_submitted")
    assert len(log.events("nas_unreachable")) == len(log.events("nas_reachable")) == 1


def test_a_nas_that_hangs_is_told_once_and_stops_nothing(cluster, log):
    """A FUSE file system that nobody serves: every access to it blocks in the kernel."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(cluster.submit)
    assert libc.mount(b"hang", place, b"fuse", 0, options.encode()) == 0, ctypes.get_errno()
    try:
        (unreachable,) = log.wait_for("nas_unreachable")
        assert "did not answer within" in unreachable["reason"]
    finally:
        libc.umount2(place, 2)  # MNT_DETACH
        os.close(fuse)
    cluster.drop("alice", "afterwards.sh", HELD)
    log.wait_for("job_submitted")
    assert len(log.events("nas_unreachable")) == len(log.events("nas_reachable")) == 1


def test_the_watcher_ends_within_five_seconds(cluster):
    pid = cluster.pids()["watcher"]
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    cluster.wait_for(lambda: not Path(f"/proc/{pid}").exists(), 5)
    assert time.monotonic() - began < 5
    cluster.up()


# Slurm itself


@pytest.fixture
def only_accounting(cluster, tmp_path):
    """Settings under which squeue knows nothing, as when slurmctld forgot the jobs."""
    for name in ("sacct", "scontrol", "sdiag"):
        (tmp_path / name).symlink_to(cluster.slurm_bin / name)
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    (tmp_path / "squeue").chmod(0o755)
    return Slurm(bin_dir=tmp_path, conf=str(cluster.state / "etc/slurm.conf"))


@pytest.mark.parametrize("options", [["--hold"], ["--array=1-3", "--hold"], []])
def test_a_job_that_slurmctld_forgot_is_found_by_its_tag(cluster, only_accounting, options):
    tag, uid = secrets.token_hex(16), cluster.home("alice").stat().st_uid
    began = time.time()
    job_id = cluster.sbatch(
        "alice", HELD.replace("--hold", "-n1"), *options, f"--comment=x sbridge1?tag={tag}"
    )
    if options:
        cluster.scancel(job_id)
    cluster.wait_job(job_id, {"CANCELLED"} if options else {"COMPLETED"})
    lookup = SubmissionLookup(only_accounting)

    def found():
        with contextlib.suppress(Exception):
            return lookup.find(uid, [tag], began)

    cluster.wait_for(lambda: (found() or {}).get(tag), what="slurmdbd has the job")
    assert found()[tag].job_id == job_id
    assert began - 2 < found()[tag].submitted < time.time() + 2
    assert lookup.find(uid + 1, [tag], began) == {}


@pytest.mark.parametrize(
    "line",
    [
        " -J 'a b' --comment=x'\\ 'y",
        "-n 2#c",
        " -J \"it's\" # don't",
        r" -J a\"b --comment=\n\\",
        ' -J "" -n 3',
        " -J a#b",
        " -J 'a#b' \t-n\v2",
        " --comment=가나다\r -n 2",
        " hetjob -n 3",
        " -n 2 packjob -c 3",
    ],
)
def test_words_are_split_as_the_real_sbatch_does(cluster, line):
    text = f"#!/bin/sh\n\n#SBATCH{line}\n##SBATCH -n 9\n#SBATCH --nosuch\nls\n#SBATCH -n 8\n"
    said = cluster.run_as("alice", ["sbatch", "-vvv", "--test-only"], text).stderr
    theirs = re.findall(r'Found in script, argument "(.*)"$', said, re.MULTILINE)
    words = [word.text for part in header.read(text).components for word in part]
    assert theirs == words
    assert "--nosuch" in theirs


def test_a_backslash_before_a_blank_is_read_as_slurm_22_05_does(cluster):
    """Newer releases keep the blank, see docs/critiques.md; the watcher does not know which."""
    text = "#!/bin/sh\n#SBATCH --comment=x\\ y\nls\n"
    said = cluster.run_as("alice", ["sbatch", "-vvv", "--test-only"], text).stderr
    theirs = re.findall(r'Found in script, argument "(.*)"$', said, re.MULTILINE)
    ours = [word.text for part in header.read(text).components for word in part]
    assert ours == ["--comment=x", "y"]
    assert theirs == (ours if cluster.release == "22.05" else ["--comment=x y"])
