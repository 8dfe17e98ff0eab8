"""sbcast reads the sandbox's file, and copies to where tasks see the copy."""

import errno
import os
import subprocess

import pytest

from bridge.slurm import sbcast


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["a", "/s/b"], ["a", "/s"]),
        (["-f", "-F", "4", "--size=1m", "a", "/b"], ["a", "/"]),
        (["-C", "a", "-t", "5", "b", "--force"], ["a", "."]),
        (["a", "/s/"], ["a", "/s"]),
        (["a"], []),
        (["--version"], []),
    ],
)
def test_the_paths_are_found_among_the_options(words, paths):
    assert sbcast.paths_inside(words) == paths


def test_the_open_file_takes_the_place_of_its_name():
    shared = sbcast.shared(["-f", "x/a", "/s/"], {"x/a": 600})
    assert shared == ["-f", "/proc/self/fd/600", "/s/a"]


@pytest.mark.parametrize(
    ("words", "is_meant"),
    [(["a", "/s/b"], False), (["a", "/tmp/b"], True), (["--version"], False), (["a"], False)],
)
def test_copies_for_folders_that_only_sandboxes_have_are_made_there(words, is_meant):
    assert sbcast.is_for_sandboxes(words, {"/s"}.__contains__) == is_meant


@pytest.fixture
def source(tmp_path):
    """Give a file to copy: its path, and itself open."""
    path = tmp_path / "a b"
    path.write_text("data")
    path.chmod(0o4751)
    os.utime(path, (5, 7))
    with path.open("rb") as file:
        yield str(path), {str(path): file.fileno()}


def step(source, *words, job="7", nodes="2"):
    path, opened = source
    words = [path if word == "SOURCE" else word for word in words]
    return sbcast.step(words, opened, "/w", job, nodes)


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (("SOURCE", "/tmp/b"), ["/tmp/b", "751", "", ""]),
        (("-f", "SOURCE", "b", "-p"), ["/w/b", "751", "7", "force"]),
        (("SOURCE", "/tmp/", "--force", "-j", "7"), ["/tmp/a b", "751", "", "force"]),
        (("--send-libs=no", "SOURCE", "../b"), ["/w/../b", "751", "", ""]),
    ],
)
def test_a_task_on_each_node_stores_the_copy(source, words, stored):
    made = step(source, *words)
    assert made[-4:] == stored
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--overlap"} <= set(made)


@pytest.mark.parametrize("word", ["--jobid=8", "--send-libs", "--send-libs=yes", "--no-allocation"])
def test_copies_that_cannot_be_made_in_the_sandboxes_are_refused(source, word):
    with pytest.raises(sbcast.UnsharedError, match="/tmp/b is a path of the sandboxes"):
        step(source, word, "SOURCE", "/tmp/b")


def test_wishes_for_other_steps_are_none_for_this_one():
    given = {b"SLURM_JOB_ID": b"7", b"SLURM_NTASKS": b"9", b"SRUN_X": b"1", b"PATH": b"/bin"}
    left = sbcast.environment_of_step(given)
    assert left == {b"SLURM_JOB_ID": b"7", b"PATH": b"/bin"}


@pytest.fixture
def store(tmp_path, source):
    """Run what a task does, with these words; returns its exit code and what it said."""

    def store(*words):
        *_, shell, option, script, name, path, mode, mtime, force = step(source, *words)
        argv = [shell, option, script, name, path, mode, mtime, force]
        with open(source[0], "rb") as file:
            done = subprocess.run(
                argv,
                stdin=file,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "SLURMD_NODENAME": "n1"},
            )
        return done.returncode, done.stderr

    return store


def test_a_copy_is_the_same_file_and_replaces_another_by_force_only(store, tmp_path):
    copy = tmp_path / "copy"
    assert store("SOURCE", str(copy)) == (0, "")
    assert copy.read_text() == "data"
    assert copy.stat().st_mode & 0o7777 == 0o751
    refused = (errno.EEXIST, "sbcast: error: REQUEST_FILE_BCAST(n1): File exists\n")
    assert store("SOURCE", str(copy)) == refused
    copy.write_text("other")
    assert store("-fp", "SOURCE", str(copy)) == (0, "")
    assert (copy.read_text(), int(copy.stat().st_mtime)) == ("data", 7)
    assert sorted(os.listdir(tmp_path)) == ["a b", "copy"], "no draft is left"


@pytest.mark.parametrize(
    ("target", "reason"), [("no/such", "No such file or directory"), (".", "Is a directory")]
)
def test_a_copy_that_has_no_place_is_told_with_the_node(store, tmp_path, target, reason):
    code, said = store("-f", "SOURCE", f"{tmp_path}/{target}")
    assert said == f"sbcast: error: REQUEST_FILE_BCAST(n1): {reason}\n"
    assert os.strerror(code) == reason
