"""Which drains the agent takes back, and when."""

import shutil

import pytest

from bridge.agent.node_health import NodeHealth
from bridge.agent.reconcile import reconcile
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Agent, Config
from bridge.errors import TemporaryError
from bridge.runtimes.host import HostRuntime
from bridge.slurm.jobs import SlurmControl

OURS = "sbridge: podman cannot start x"


class Log:
    """Keeps the names of events."""

    def __init__(self):
        self.events = []

    def _note(self, event, **_):
        self.events.append(event)

    debug = info = warning = error = _note


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def control(slurm):
    return SlurmControl(slurm)


@pytest.fixture
def sandboxes(tmp_path, control, log, clock):
    agent = Agent(spool_dir=tmp_path, runtime="host", allowed_runtimes=("host",))
    made = Sandboxes(Config(agent=agent), "n1", control, None, log, lambda job: None)
    made.health = NodeHealth(made.node.spool, [HostRuntime()], clock)
    made.node.spool.jobs.mkdir(parents=True)
    return made


@pytest.fixture
def drained(command, open_dir):
    """Let Slurm say that n1 is drained; returns what it was told to do with it."""
    told = open_dir / "told"
    told.touch()

    def drained(reason, state="IDLE+DRAIN"):
        command("squeue", "")
        shown = f"NodeName=n1 State={state} Reason={reason} [root@2026-11-22T05:07:42]"
        command(
            "scontrol",
            f'case $1 in update) echo "$*" >>{told} ;; *) echo "{shown}" ;; esac',
        )
        return lambda: told.read_text().splitlines()

    return drained


RESUMED = ["update NodeName=n1 State=RESUME"]


def test_a_node_that_our_hook_drained_is_resumed(sandboxes, control, log, drained):
    told = drained("sbridge: prepare of job 7: no answer")
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert log.events == ["node_resumed"]


@pytest.mark.parametrize(
    ("reason", "state"),
    [("disk swap, Kim", "IDLE+DRAIN"), ("Prolog error", "IDLE+DRAIN"), (OURS, "DOWN")],
)
def test_what_others_decided_about_a_node_stays(sandboxes, control, log, drained, reason, state):
    told = drained(reason, state)
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_fault_that_was_just_found_is_not_looked_at_yet(sandboxes, control, log, drained):
    told = drained(OURS)
    sandboxes.health.found_fault()
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_passing_fault_is_over_once_a_look_finds_nothing(sandboxes, control, log, drained, clock):
    told = drained(OURS)
    sandboxes.health.found_fault()
    clock.now += 5
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert not sandboxes.health.is_due


def test_a_fault_that_is_still_there_keeps_the_node_drained(
    sandboxes, control, log, drained, clock
):
    told = drained(OURS)
    jobs = sandboxes.node.spool.jobs
    sandboxes.health.found_fault()
    shutil.rmtree(jobs)
    clock.now += 5
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []
    assert log.events == ["node_still_at_fault"]
    jobs.mkdir()
    clock.now += 10
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED


def test_a_node_that_an_earlier_agent_drained_is_looked_at_before_it_is_resumed(
    sandboxes, control, log, drained
):
    told = drained(OURS)
    sandboxes.node.spool.jobs.rmdir()
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_node_that_an_administrator_resumed_is_watched_no_more(
    sandboxes, control, log, drained, clock
):
    told = drained(OURS, state="IDLE")
    sandboxes.health.found_fault()
    clock.now += 5
    assert sandboxes.health.is_due
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []
    assert not sandboxes.health.is_due


def test_a_slurm_that_cannot_be_asked_leaves_everything_as_it_is(
    sandboxes, control, log, command, clock
):
    command("squeue", "")
    command("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    sandboxes.health.found_fault()
    clock.now += 5
    assert not reconcile(sandboxes, control, "n1", log)
    assert sandboxes.health.is_due


def test_a_runtime_that_cannot_be_asked_keeps_no_node_from_being_resumed(
    sandboxes, control, log, drained, monkeypatch
):
    def away():
        raise TemporaryError("the Kubernetes API does not answer")

    told = drained(OURS)
    monkeypatch.setattr(sandboxes.runtimes, "strays", away)
    assert not reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert log.events == ["reconcile_delayed", "node_resumed"]
