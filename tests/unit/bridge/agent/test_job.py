"""A run's state, on disk and in memory."""

import errno
import json

import pytest

from bridge.agent import job
from bridge.agent.job import JobRun, Request, State
from bridge.job_spool import JobSpool, RunId


@pytest.fixture
def run(tmp_path):
    request = Request(RunId(7, 0), 1000, 1000, {})
    return JobRun(request, JobSpool(tmp_path), State(accepted_at=1.0))


@pytest.fixture
def full_disk(monkeypatch):
    def write(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "write_atomically", write)


def test_what_is_on_disk_is_what_is_known(run):
    run.advance(name="ready", runtime="podman")
    assert json.loads(run.spool.state.read_bytes())["name"] == "ready"
    assert (run.state.name, run.state.runtime) == ("ready", "podman")


@pytest.mark.usefixtures("full_disk")
def test_a_step_that_the_disk_does_not_take_was_not_made(run):
    with pytest.raises(OSError, match="No space left"):
        run.advance(name="finished", finish={"SLURM_JOB_ID": "7"})
    assert (run.state.name, run.state.finish) == ("accepted", {})


@pytest.mark.usefixtures("full_disk")
def test_steps_are_told_why_there_is_no_sandbox_whatever_the_disk_takes(run):
    run.note(name="failed", blame="node", reason="its disk is full")
    assert (run.state.name, run.state.reason) == ("failed", "its disk is full")
    assert run.is_settled


def test_what_a_start_waited_for_is_told_once_with_all_there_is_to_it(run):
    for said in ("pulling a", "pulling a", "pulling a took 3 s", "waiting for the kubelet"):
        run.say(said)
    assert run.start_so_far()["start_words"] == ["pulling a took 3 s", "waiting for the kubelet"]
