"""Which steps are not let in, and what those run that are."""

from dataclasses import replace

import pytest

from bridge import cgroups, kernel, wire
from bridge.agent.entrance import (
    Entrance,
    RefusedError,
    _check_descriptors,
    _file_to_run,
    _named_jobs,
    _step_of,
)
from bridge.agent.job import JobRun, Request, State
from bridge.config import Config
from bridge.job_spool import JobSpool, RunId


def asking(*numbers, script=False):
    fields = [("fd", number) for number in numbers]
    return wire.Message("enter", fields + ([("script", b"1")] if script else []))


@pytest.mark.parametrize(
    "message",
    [
        asking(b"0", b"1", b"600"),
        asking(b"0", b"1", b"-1"),
        asking(b"0", b"1", b"x"),
        asking(b"0", b"1", b"1"),
        asking(b"0", b"1"),
        asking(b"0", b"1", script=False),
        asking(b"0", b"1", b"2", script=True),
    ],
)
def test_descriptor_numbers_that_do_not_fit_are_refused(message):
    with pytest.raises(RefusedError):
        _check_descriptors(message, [10, 11, 12])


def test_fitting_descriptor_numbers_pass():
    _check_descriptors(asking(b"0", b"1", b"7"), [10, 11, 12])
    _check_descriptors(asking(b"0", b"1", script=True), [10, 11, 12])


@pytest.mark.parametrize(
    ("word", "step", "file"),
    [
        ("script=%2Fx.py", [("idle", b"1")], [("file", b"/x.py")]),
        ("script=%2Fx.py", [], []),
        ("image=a", [("idle", b"1")], []),
    ],
)
def test_the_named_script_runs_only_when_the_batch_script_is_idle(tmp_path, word, step, file):
    variables = {"SLURM_JOB_COMMENT": f"sbridge1?{word}"}
    job = JobRun(Request(RunId(1, 0), 1, 1, variables), JobSpool(tmp_path), State())
    assert _file_to_run(wire.Message("enter", step), job) == file


PARTS = ("SLURM_JOB_ID_HET_GROUP_0=7", "SLURM_JOB_ID_HET_GROUP_1=8", "SLURM_JOB_ID_HET_GROUP_2=9")


@pytest.mark.parametrize(
    ("environment", "in_cgroup", "likeliest"),
    [
        (("SLURM_JOB_ID=7",), 0, [7]),
        (("SLURM_JOB_ID=7",), 6, [7, 6]),
        (("SLURM_JOB_ID=7", *PARTS), 8, [8, 7, 9]),
        (("SLURM_JOB_ID=7", *PARTS), 0, [7, 8, 9]),
        (("SLURM_JOB_ID=7", "SLURM_JOB_ID_HET_GROUP_0=x"), 0, [7]),
    ],
)
def test_a_task_of_a_heterogeneous_job_is_of_the_part_whose_cgroup_it_is_in(
    environment, in_cgroup, likeliest
):
    message = wire.Message("enter", [("env", pair.encode()) for pair in environment])
    assert list(dict.fromkeys(_named_jobs(message, in_cgroup))) == likeliest


SLURMS, OTHERS = "/slurm_n1/uid_1001/job_7/step_batch/task_0", "/user.slice"


@pytest.mark.parametrize(
    ("setting", "path", "chosen"),
    [
        ("auto", SLURMS, "slurm"),
        ("auto", OTHERS, "sandbox"),
        ("slurm", OTHERS, "slurm"),
        ("sandbox", SLURMS, "sandbox"),
    ],
)
def test_the_setting_decides_whose_cgroup_a_step_joins(monkeypatch, setting, path, chosen):
    config = Config()
    config = replace(config, agent=replace(config.agent, step_cgroup=setting))
    monkeypatch.setattr(cgroups, "of_process", lambda _: {"memory": path, "cpu": OTHERS})
    assert Entrance(config, None, None, None)._cgroup_of(-1) == chosen


@pytest.mark.parametrize("value", ["", "0", "x", "1" * 11])
def test_a_step_that_names_no_job_is_refused(value):
    with pytest.raises(RefusedError):
        _named_jobs(wire.Message("enter", [("env", f"SLURM_JOB_ID={value}".encode())]), 0)


def test_tasks_of_a_step_have_one_parent_and_one_cgroup_but_for_their_own(monkeypatch):
    def step(parent, *paths, pid=7):
        monkeypatch.setattr(kernel, "parent", lambda _: parent)
        monkeypatch.setattr(cgroups, "of_process", lambda _: dict(enumerate(paths)))
        return _step_of(-1, pid)

    own = step(42, "/slurm/uid_1/job_2/step_0/task_0", "/slurm/uid_1/job_2/step_0", "/")
    assert step(42, "/slurm/uid_1/job_2/step_0/task_11", "/slurm/uid_1/job_2/step_0", "/") == own
    assert step(43, "/slurm/uid_1/job_2/step_0/task_1", "/slurm/uid_1/job_2/step_0", "/") != own
    assert step(42, "/slurm/uid_1/job_2/step_1/task_0", "/slurm/uid_1/job_2/step_1", "/") != own
    assert step(1, "/") != step(1, "/", pid=8), "orphans have nothing in common"
