"""When a node that was found at fault is looked at again, and what is looked at."""

import pytest

from bridge.agent.node_health import NodeHealth
from bridge.errors import NodeError
from bridge.job_spool import NodeSpool
from bridge.runtimes.host import HostRuntime


class Broken(HostRuntime):
    def check(self):
        raise NodeError("podman does not work")


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "jobs").mkdir()
    return NodeSpool(tmp_path)


@pytest.fixture
def health(spool, clock):
    return NodeHealth(spool, [HostRuntime()], clock)


def rest_of(health, clock):
    """Find a fault, and return how many seconds nobody looks."""
    health.found_fault()
    assert health.is_resting
    began = clock.now
    while health.is_resting:
        clock.now += 1
    assert health.is_due
    return clock.now - began


def test_nothing_is_due_while_no_fault_was_found(health, clock):
    clock.now += 1e6
    assert not health.is_due
    assert not health.is_resting


def test_a_fault_that_comes_back_rests_twice_as_long_up_to_ten_minutes(health, clock):
    rests = [rest_of(health, clock) for _ in range(9)]
    assert rests == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_a_fault_that_comes_back_right_after_the_node_was_resumed_rests_longer_too(health, clock):
    assert rest_of(health, clock) == 5
    health.settle()
    assert rest_of(health, clock) == 10


def test_many_jobs_that_find_a_fault_at_the_same_time_make_one_rest(health, clock):
    for _ in range(20):
        health.found_fault()
    clock.now += 5
    assert health.is_due


def test_a_sandbox_that_was_made_makes_the_next_rest_short(health, clock):
    assert [rest_of(health, clock), rest_of(health, clock)] == [5, 10]
    health.made_sandbox()
    assert health.is_due, "the node may still be drained"
    assert rest_of(health, clock) == 5


def test_nothing_is_due_once_it_is_settled(health, clock):
    rest_of(health, clock)
    health.settle()
    assert not health.is_due


def test_a_node_with_a_fit_spool_and_runtime_is_sound(health):
    health.check()


def test_a_spool_that_cannot_be_written_is_a_fault(health, spool):
    spool.jobs.rmdir()
    with pytest.raises(NodeError, match="jobs cannot be written"):
        health.check()


def test_a_runtime_that_does_not_work_is_a_fault(spool):
    with pytest.raises(NodeError, match="podman does not work"):
        NodeHealth(spool, [HostRuntime(), Broken()]).check()
