"""Where the tasks of a parallel job meet."""

import socket

import pytest

from bridge.agent import rendezvous
from bridge.agent.job import JobRun, Request, State
from bridge.job_spool import JobSpool
from bridge.runtimes.sandbox import Sandbox

STEP = {
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def job(tmp_path, nodes="n[1-2]"):
    variables = {"SLURM_JOB_ID": "12", "SLURM_JOB_UID": "1", "SLURM_JOB_GID": "1"}
    request = Request.of({**variables, "SLURM_JOB_NODELIST": nodes})
    state = State(sandbox=Sandbox("x", 1, 1), master_addr="first", master_port=20012)
    return JobRun(request, JobSpool(tmp_path), state)


def extended(job, environment, *, is_batch=False):
    given = [f"{name}={value}".encode() for name, value in environment.items()]
    pairs = rendezvous.extended(given, job, is_batch=is_batch)
    result = dict(pair.decode().split("=", 1) for pair in pairs)
    assert environment.items() <= result.items() or "SBRIDGE_RENDEZVOUS" in environment
    return result


def test_a_task_knows_its_place_and_the_meeting(tmp_path):
    found = extended(job(tmp_path), STEP)
    assert found["MASTER_ADDR"] == "first"
    assert found["MASTER_PORT"] == "20012"
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
    assert [found[name] for name in names] == ["4", "3", "1", "1"]


def test_a_script_has_no_rank(tmp_path):
    found = extended(job(tmp_path), STEP, is_batch=True)
    assert found["MASTER_ADDR"] == "first"
    assert "RANK" not in found


def test_one_task_on_one_node_has_nobody_to_meet(tmp_path):
    environment = STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
    assert extended(job(tmp_path, "n1"), environment) == environment


def test_what_the_user_set_stays(tmp_path):
    found = extended(job(tmp_path), STEP | {"MASTER_PORT": "29500", "RANK": ""})
    assert (found["MASTER_PORT"], found["RANK"]) == ("29500", "")


def test_what_an_outer_task_was_given_is_not_the_users(tmp_path):
    outer = extended(job(tmp_path), STEP)
    inner = extended(job(tmp_path), outer | {"SLURM_PROCID": "0", "MASTER_ADDR": "mine"})
    assert (inner["RANK"], inner["MASTER_ADDR"]) == ("0", "mine")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_that_is_listened_on_is_passed_over(family):
    first = rendezvous.free_port(12, ())
    with socket.socket(family) as other:
        try:
            other.bind(("", first))
        except OSError:
            pytest.skip("no IPv6 here")
        other.listen()
        assert rendezvous.free_port(12, ()) > first


def test_a_port_of_another_job_is_passed_over():
    first = rendezvous.free_port(12, ())
    assert rendezvous.free_port(12, {first}) > first
