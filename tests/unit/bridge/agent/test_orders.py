"""What the keeper of a task is told."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bridge import kernel, wire
from bridge.agent import orders
from bridge.agent.job import JobRun, Request, State
from bridge.config import Config
from bridge.errors import TemporaryError
from bridge.job_spool import JobSpool, RunId

SPOOL = Path("/slurmd")


@pytest.fixture
def job(tmp_path):
    def job(word=""):
        variables = {"SLURM_JOB_COMMENT": f"sbridge1?{word}"} if word else {}
        return JobRun(Request(RunId(7, 0), 1, 1, variables), JobSpool(tmp_path), State())

    return job


class Unasked:
    """A node whose Slurm cannot be asked."""

    config = Config()

    @property
    def slurmd_spool(self):
        raise TemporaryError("slurmctld is away")


@pytest.fixture
def told(job):
    """Return the orders for a step that says this, about this process."""

    def told(*fields, word="", node=None, environment=()):
        caller = kernel.open_process(os.getpid())
        pairs = [("env", pair) for pair in (b"SLURM_JOB_ID=7", *environment)]
        node = node or SimpleNamespace(config=Config(), slurmd_spool=SPOOL)
        try:
            message = wire.Message("enter", [*fields, *pairs])
            return wire.Message("enter", orders.of(message, caller, os.getpid(), job(word), node))
        finally:
            os.close(caller)

    return told


@pytest.mark.parametrize(
    ("word", "step", "file"),
    [
        ("script=%2Fx.py", [("idle", b"1")], [("file", b"/x.py")]),
        ("script=%2Fx.py", [], []),
        ("image=a", [("idle", b"1")], []),
    ],
)
def test_the_named_script_runs_only_when_the_batch_script_is_idle(job, word, step, file):
    assert orders.file_to_run(wire.Message("enter", step), job(word)) == file


def test_a_script_is_copied_for_the_step_that_runs_it(told, tmp_path):
    path = b"/slurmd/job00007/slurm_script"
    shown = str(JobSpool(tmp_path).slurmd / "job00007/slurm_script")
    runs = [("arg", b"/bin/sh"), ("arg", path)]
    assert told(("script", b"1"), *runs).text("script_copy") == shown
    assert told(*runs).text("script_copy") == "", "it was not open"
    other = ("arg", b"/elsewhere/job00007/slurm_script")
    assert told(("script", b"1"), other).text("script_copy") == ""


def test_slurm_is_asked_for_what_it_alone_knows_and_no_more(told):
    assert told(("arg", b"/bin/true"), node=Unasked()).every("arg") == [b"/bin/true"]
    with pytest.raises(TemporaryError):
        told(("script", b"1"), node=Unasked())
    with pytest.raises(TemporaryError):
        told(environment=[b"PMIX_SERVER_TMPDIR=/x/pmix.7.0"], node=Unasked())


@pytest.mark.parametrize(
    ("fields", "directories"),
    [([], [b"/inside", b"/here"]), ([("task", b"1")], [b"/here", b"/inside"])],
)
def test_a_task_begins_where_srun_was_and_a_script_where_it_asks(told, fields, directories):
    asked = "image=x&workdir=%2Finside"
    assert told(*fields, ("cwd", b"/here"), word=asked).every("cwd") == directories
    assert told(*fields, ("cwd", b"/here"), word="image=x").every("cwd") == [b"/here"]


def test_each_step_has_a_door_of_its_own_and_knows_its_place_inside(told, tmp_path):
    order = told()
    folder, name = os.path.split(order.text("door"))
    assert folder == str(JobSpool(tmp_path).steps)
    assert name.startswith(f"{os.getpid()}-")
    assert f"SBRIDGE_DOOR=/sbridge/steps/{name}".encode() in order.every("env")


def test_what_a_step_says_of_itself_is_no_order(told):
    """Whose it is and where its folders are nobody may say but the agent."""
    lies = ("uid", "warnings", "usage", "door", "bin_dir", "job", "script_copy", "pmix", "file")
    order = told(*((key, b"a lie") for key in lies), ("arg", b"/bin/sh"))
    assert [key for key, value in order.fields if value == b"a lie"] == []
    assert order.every("uid") == [b"1"]
