import fcntl
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bridge import request
from bridge.as_user import User
from bridge.config import Slurm
from bridge.slurm import submission
from bridge.slurm.submission import (
    SlurmNotReached,
    Submission,
    SubmissionDoubtful,
    SubmissionRefused,
)

TAG = "0123456789abcdef" * 2
ALICE = User("alice", os.getuid(), os.getgid(), (os.getgid(),), "/", "/bin/bash")
FILE = Submission(
    script=b"#!/bin/sh\necho hello\n",
    tag=TAG,
    comment="",
    file="hello.sh",
    name="hello",
    directory="/home/alice",
    stdout="/spool/%j/stdout.log",
    stderr="/spool/%j/stderr.log",
)


def submit(slurm, file=FILE, user=ALICE, timeout_s=10.0, kept_open=()):
    return submission.submit(file, user, slurm, timeout_s=timeout_s, kept_open=kept_open)


def test_the_arguments_are_these():
    assert submission.sbatch_argv(Path("/usr/bin/sbatch"), FILE) == [
        "/usr/bin/sbatch",
        "--parsable",
        "--output=/spool/%j/stdout.log",
        "--error=/spool/%j/stderr.log",
        f"--comment=sbridge1?tag={TAG}&file=hello.sh",
        "--job-name=hello",
        "--chdir=/home/alice",
    ]


def test_what_the_file_names_itself_is_not_given_again():
    argv = submission.sbatch_argv(Path("sbatch"), replace(FILE, name=None, directory=None))
    assert not [word for word in argv if word.startswith(("--job-name", "--chdir"))]


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("", f"sbridge1?tag={TAG}"),
        ("my own words", f"my own words sbridge1?tag={TAG}"),
        ("mine sbridge1?image=alpine", f"mine sbridge1?image=alpine&tag={TAG}"),
        ("sbridge1?tag=forged", f"sbridge1?tag={TAG}"),
        ("mine sbridge1?broken", f"mine sbridge1?tag={TAG}"),
    ],
)
def test_the_tag_joins_the_users_own_comment(comment, expected):
    tagged = submission.tagged(comment, TAG, "")
    assert tagged == expected
    assert request.find(tagged).tag == TAG


@pytest.mark.parametrize("comment", ["", "my own", "sbridge1?file=forged", "sbridge1?broken"])
def test_the_files_name_travels_with_the_tag(comment):
    tagged = submission.tagged(comment, TAG, "나의 작업&tag=x.sh")
    assert request.without_request(tagged) == request.without_request(comment)
    found = request.find(tagged)
    assert (found.file, found.tag) == ("나의 작업&tag=x.sh", TAG)


@pytest.mark.parametrize("own", ["x" * 900, "한" * 300, "sbridge1?image=" + "x" * 900])
def test_a_name_for_which_a_comment_has_no_room_is_left_out(own):
    for length in range(60, 90):
        tagged = submission.tagged(own, TAG, "x" * length)
        fits = len(tagged.encode()) <= 1024
        assert fits or tagged == submission.tagged(own, TAG, "")
        assert request.find(tagged).file in ("", "x" * length)
        assert request.find(tagged).tag == TAG
    assert request.find(submission.tagged(own, TAG, "x" * 20)).file == "x" * 20
    assert request.find(tagged).file == ""


def test_the_environment_is_the_users_alone(monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    alice = replace(ALICE, home="/home/alice", shell="")
    assert submission.sbatch_environment(alice, Slurm()) == {
        "HOME": "/home/alice",
        "USER": "alice",
        "LOGNAME": "alice",
        "SHELL": "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "ko_KR.UTF-8",
        "SLURM_CONF": "/etc/slurm/slurm.conf",
    }


def test_a_slurm_elsewhere_is_on_the_path_and_its_conf_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    settings = Slurm(bin_dir=Path("/opt/slurm/bin"), conf="/opt/slurm/etc/slurm.conf")
    environment = submission.sbatch_environment(ALICE, settings)
    assert environment["PATH"].startswith("/opt/slurm/bin:")
    assert environment["SLURM_CONF"] == "/opt/slurm/etc/slurm.conf"


def test_sbatch_gets_the_script_the_environment_and_the_home(slurm, command, open_dir):
    command(
        "sbatch", f"cat > {open_dir}/script; env > {open_dir}/env; pwd > {open_dir}/cwd; echo 7"
    )
    accepted = submit(slurm, replace(FILE, script=b"#!/bin/sh\n\xff" + b"x" * 300_000))
    assert accepted.job_id == 7
    assert (open_dir / "script").read_bytes() == b"#!/bin/sh\n\xff" + b"x" * 300_000
    variables = {line.partition("=")[0] for line in (open_dir / "env").read_text().splitlines()}
    allowed = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "SLURM_CONF", "PWD", "_"}
    assert variables <= allowed | {"OLDPWD", "SHLVL"}
    assert (open_dir / "cwd").read_text() == "/\n"


def test_a_home_that_is_not_there_does_not_matter(slurm, command, open_dir):
    command("sbatch", "pwd >&2; echo 7")
    assert submit(slurm, user=replace(ALICE, home=str(open_dir / "gone"))).messages == "/"


def test_what_sbatch_says_besides_is_kept(slurm, command):
    command("sbatch", "echo 'sbatch: a warning' >&2; echo '12;cluster'")
    assert submit(slurm) == submission.Accepted(12, "sbatch: a warning")


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        "sbatch: error: Batch job submission failed: Unspecified error",
        "sbatch: unrecognized option '--foo'",
        "sbatch: error: line 2: unknown directive Socket timed out on send/recv operation\n"
        "sbatch: error: Batch job submission failed: Unspecified error",
    ],
)
def test_a_refusal_keeps_sbatchs_own_words(slurm, command, said):
    command("sbatch", f"cat >&2 <<'E'\n{said}\nE\nexit 1")
    with pytest.raises(SubmissionRefused) as caught:
        submit(slurm)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "reason",
    [
        "Unable to contact slurm controller (connect failure)",
        "Protocol authentication error",
        "Invalid authentication credential",
        "Slurm backup controller in standby mode",
        "I/O error writing script/environment to file",
    ],
)
def test_a_slurm_that_was_not_reached_is_temporary(slurm, command, reason):
    command("sbatch", f"echo 'sbatch: error: Batch job submission failed: {reason}' >&2; exit 1")
    with pytest.raises(SlurmNotReached, match=reason[:20]):
        submit(slurm)


def test_a_slurm_without_configuration_is_not_reached(slurm, command):
    said = "sbatch: fatal: Could not establish a configuration source"
    command("sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SlurmNotReached):
        submit(slurm)


def test_an_sbatch_that_is_not_there_is_not_reached_and_the_setting_is_named(slurm):
    with pytest.raises(SlurmNotReached, match=r"cannot be started[^$]*slurm\.bin_dir"):
        submit(slurm)


@pytest.mark.parametrize(
    "reason",
    [
        "Socket timed out on send/recv operation",
        "Unable to contact slurm controller (receive failure)",
        "Unable to contact slurm controller (send failure)",
        "Zero Bytes were transmitted or received",
        "Connection reset by peer",
    ],
)
def test_an_answer_that_got_lost_is_a_doubt(slurm, command, reason):
    command("sbatch", f"echo 'sbatch: error: Batch job submission failed: {reason}' >&2; exit 1")
    with pytest.raises(SubmissionDoubtful, match=reason[:20].replace("(", "")):
        submit(slurm)


@pytest.mark.parametrize("body", ["exit 1", "echo Submitted", "kill -9 $$"])
def test_an_sbatch_that_says_nothing_useful_is_a_doubt(slurm, command, body):
    command("sbatch", body)
    with pytest.raises(SubmissionDoubtful):
        submit(slurm)


def test_an_sbatch_that_takes_too_long_is_ended_and_a_doubt(slurm, command):
    command("sbatch", "exec sleep 60")
    began = time.monotonic()
    with pytest.raises(SubmissionDoubtful, match=r"did not end within 0\.2 s"):
        submit(slurm, timeout_s=0.2)
    assert time.monotonic() - began < 10


def test_sbatch_holds_the_lock_even_when_its_starter_is_gone(slurm, command, open_dir):
    command("sbatch", f"echo > {open_dir}/started; exec sleep 60")
    lock = os.open(open_dir / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            submit(slurm, kept_open=(lock,))
        finally:
            os._exit(0)
    os.close(lock)
    while not (open_dir / "started").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    holder = subprocess.run(["flock", "-n", open_dir / "lock", "true"], check=False)
    os.killpg(pid, signal.SIGKILL)
    assert holder.returncode == 1


def test_no_descriptor_is_left(slurm, command):
    command("sbatch", "echo 7")
    submit(slurm)
    before = len(os.listdir("/proc/self/fd"))
    submit(slurm)
    assert len(os.listdir("/proc/self/fd")) == before
