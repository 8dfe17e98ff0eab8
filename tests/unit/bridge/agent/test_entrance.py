"""Which steps are not let in, and what those run that are."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bridge import cgroups, kernel, wire
from bridge.agent.entrance import (
    Entrance,
    RefusedError,
    _check_descriptors,
    _named_jobs,
    _step_of,
)
from bridge.agent.job import JobRun, Request, State
from bridge.config import Config
from bridge.errors import TemporaryError
from bridge.job_spool import JobSpool, RunId
from bridge.runtimes.sandbox import Sandbox


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


class Node:
    """A node whose Slurm does not answer at first."""

    def __init__(self, config, troubles):
        self.config = config
        self._troubles = troubles

    @property
    def slurmd_spool(self):
        if self._troubles:
            raise self._troubles.pop()
        return Path("/slurmd")


@pytest.fixture
def enter(tmp_path, log):
    """Have this process ask to enter a sandbox, which it is itself; returns what it is told."""

    def enter(troubles, hangs_up=False):
        config, held = Config(), []
        request = Request(RunId(7, 0), os.getuid(), os.getgid(), {})
        own = kernel.open_process(os.getpid())
        sandbox = Sandbox("sbridge-7.0", os.getpid(), kernel.start_ticks(own))
        os.close(own)
        job = JobRun(request, JobSpool(tmp_path), State(name="ready", sandbox=sandbox))
        sandboxes = SimpleNamespace(
            node=Node(config, troubles),
            runs=SimpleNamespace(latest=lambda _: job),
            gathering=SimpleNamespace(begin=lambda _: None),
        )
        entrance = Entrance(config, sandboxes, None, log)
        entrance._keepers = SimpleNamespace(hold=lambda _, order, passed: held.append(order))
        script = "/slurmd/job00007/slurm_script"
        fields = [("env", b"SLURM_JOB_ID=7"), ("script", b"1"), ("arg", script.encode())]
        here, there = socket.socketpair()
        with here, there, open(os.devnull) as file:
            if hangs_up:
                here.shutdown(socket.SHUT_WR)
            message = wire.Message("enter", fields)
            entrance.enter(there, message, [file.fileno()], os.getpid(), os.getuid())
            there.shutdown(socket.SHUT_WR)
            said = list(iter(lambda: wire.receive(here)[0], None))
        return held, [(message.kind, message.text("text")) for message in said]

    return enter


def test_a_batch_step_whose_agent_must_ask_slurm_waits_for_that(enter, monkeypatch, tmp_path):
    monkeypatch.setattr("bridge.agent.entrance._LOOK_S", 0.01)
    held, said = enter([TemporaryError("slurmctld is away")] * 2)
    assert said == [("waiting", "waiting for Slurm: slurmctld is away")] * 2
    (order,) = held
    assert order.text("script_copy") == str(JobSpool(tmp_path).slurmd / "job00007/slurm_script")


def test_a_step_that_went_away_meanwhile_is_let_in_no_more(enter):
    assert enter([TemporaryError("slurmctld is away")] * 2, hangs_up=True) == ([], [])
