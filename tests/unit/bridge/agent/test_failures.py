"""What becomes of a job that cannot have its sandbox: who is told what, and in which order."""

import errno
import json
import os
import threading
import time
from types import SimpleNamespace

import pytest

from bridge.agent import failures as failures_module
from bridge.agent.failures import Failures, fault_of
from bridge.agent.job import JobRun, Request, State
from bridge.errors import NodeError, TemporaryError
from bridge.job_spool import JobSpool

ABOUT = "; asking Slurm to requeue the job"
REQUEUED = "; the job was requeued"
STAYS = "; the job may not be requeued, so it fails"


class Slurm:
    """Keeps what it was asked for, and what the job's steps knew by then."""

    def __init__(self):
        self.asked = []
        self.job = None
        self.may_requeue = True
        self.troubles = []

    def drain(self, node, reason):
        self._ask("drain", node, reason)

    def requeue(self, job_id):
        self._ask("requeue", job_id, self.job.progress, self.job.is_urgent)
        return self.may_requeue

    def _ask(self, *what):
        self.asked.append(what)
        if self.troubles:
            trouble = self.troubles.pop(0)
            trouble()
            raise TemporaryError("slurmctld is away")


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch):
    for name in ("_REQUEUE_RETRY_S", "_REQUEUE_GRACE_S"):
        monkeypatch.setattr(failures_module, name, 0.01)


@pytest.fixture
def slurm():
    return Slurm()


@pytest.fixture
def told():
    """Give what was told to the agents of the job's other nodes."""
    return []


@pytest.fixture
def health():
    faults = []
    return SimpleNamespace(faults=faults, found_fault=lambda: faults.append("found"))


@pytest.fixture
def failures(slurm, told, health, log):
    def failures(node="n1"):
        gang = SimpleNamespace(tell=lambda job: told.append((job.state.name, job.state.reason)))
        return Failures(SimpleNamespace(name=node, slurm=slurm, log=log), gang, health)

    return failures


@pytest.fixture
def job(tmp_path, slurm):
    def job(name="accepted", nodes="n1", waited_s=0.0):
        variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}
        asked = {"SLURM_JOB_NODELIST": nodes, "SLURM_JOB_COMMENT": "sbridge1?image=x"}
        state = State(name=name, accepted_at=time.time() - waited_s)
        spool = JobSpool(tmp_path / "7.0")
        spool.root.mkdir(exist_ok=True)
        slurm.job = JobRun(Request.of({**variables, **asked}), spool, state)
        return slurm.job

    return job


def ended(job):
    return (job.state.name, job.state.blame, job.state.reason)


def test_a_users_fault_fails_the_job_and_asks_nobody(failures, slurm, told, job):
    here = job()
    failures().fail(here, "user", "no such image: x")
    assert ended(here) == ("failed", "user", "no such image: x")
    assert json.loads(here.spool.state.read_text())["reason"] == "no such image: x"
    assert told == [("failed", "no such image: x")]
    assert slurm.asked == []


@pytest.mark.parametrize("name", ["ready", "finished"])
def test_a_run_that_needs_no_sandbox_any_more_does_not_fail(failures, told, job, name):
    here = job(name)
    failures().fail(here, "user", "no such image: x")
    assert ended(here) == (name, "", "")
    assert told == []


@pytest.mark.parametrize(("may_requeue", "outcome"), [(True, REQUEUED), (False, STAYS)])
def test_who_waited_in_vain_is_requeued_and_told_so_before(
    failures, slurm, job, may_requeue, outcome
):
    slurm.may_requeue = may_requeue
    here = job(waited_s=90.5)
    failures().give_up(here, TemporaryError("the registry is away"))
    waited = "the registry is away (waited 90 s)"
    assert slurm.asked == [("requeue", 7, waited + ABOUT, True)]
    assert ended(here) == ("failed", "nobody", waited + outcome)


def test_a_node_at_fault_is_drained_before_its_job_is_requeued(failures, slurm, job, health):
    here = job()
    failures().blame_node(here, NodeError("podman is missing"))
    reason = "node n1 cannot run it (podman is missing)"
    assert slurm.asked == [
        ("drain", "n1", "podman is missing"),
        ("requeue", 7, reason + ABOUT, True),
    ]
    assert ended(here) == ("failed", "node", reason + REQUEUED)
    assert health.faults == ["found"]


def test_a_node_that_cannot_be_drained_now_has_its_job_requeued_all_the_same(
    failures, slurm, job, log
):
    slurm.troubles = [lambda: None]
    here = job()
    failures().blame_node(here, NodeError("podman is missing"))
    assert [what[0] for what in slurm.asked] == ["drain", "requeue"]
    assert here.state.reason.endswith(REQUEUED)
    assert log.events == ["node_at_fault", "node_not_drained", "sandbox_failed"]


def test_slurm_is_asked_to_requeue_until_it_can_be_asked(failures, slurm, job):
    slurm.troubles = [lambda: None] * 3
    here = job()
    failures().give_up(here, TemporaryError("the registry is away"))
    assert len(slurm.asked) == 4
    assert here.state.reason.endswith(REQUEUED)


def test_a_job_that_ends_while_slurm_is_away_is_not_asked_for_again(failures, slurm, job):
    here = job()
    slurm.troubles = [here.cancelled.set]
    failures().give_up(here, TemporaryError("the registry is away"))
    assert len(slurm.asked) == 1


def test_a_further_node_leaves_the_requeuing_to_the_first_for_a_while(failures, slurm, told, job):
    here = job(nodes="n[1-2]")
    failures("n2").give_up(here, TemporaryError("the registry is away"))
    reason = "the registry is away (waited 0 s)"
    assert told == [("failed", reason)]
    assert slurm.asked == [("requeue", 7, here.progress, False)], "the first did not do it"
    assert ended(here) == ("failed", "nobody", reason)


def test_a_further_node_does_not_requeue_what_the_first_has(
    failures, slurm, told, job, monkeypatch
):
    monkeypatch.setattr(failures_module, "_REQUEUE_GRACE_S", 30.0)
    here = job(nodes="n[1-2]")
    first = threading.Timer(0.1, here.cancelled.set)
    first.start()
    failures("n2").give_up(here, TemporaryError("the registry is away"))
    first.join()
    assert [name for name, _ in told] == ["failed"]
    assert slurm.asked == []


@pytest.mark.parametrize("blame", ["user", "sbridge"])
def test_another_nodes_word_ends_the_steps_where_the_sandbox_is_ready(failures, slurm, job, blame):
    here = job("ready", nodes="n[1-2]")
    failures().break_gang(here, blame, "node n2: no such image: x")
    assert ended(here) == ("ready", blame, "node n2: no such image: x")
    assert here.is_settled
    assert slurm.asked == []


@pytest.mark.parametrize("blame", ["nobody", "node"])
def test_another_nodes_fault_has_the_job_requeued(failures, slurm, job, blame):
    here = job("ready", nodes="n[1-2]")
    failures().break_gang(here, blame, "node n2: podman is missing")
    reason = "node n2: podman is missing"
    assert slurm.asked == [("requeue", 7, reason + ABOUT, True)]
    assert ended(here) == ("ready", blame, reason + REQUEUED)


def test_a_fault_of_this_node_in_a_gang_drains_it(failures, slurm, job):
    here = job("ready", nodes="n[1-2]")
    failures().break_gang_for_node(here, NodeError("its disk is full"))
    assert slurm.asked[0] == ("drain", "n1", "its disk is full")
    reason = "node n1 cannot run it (its disk is full)"
    assert ended(here) == ("ready", "node", reason + REQUEUED)


def test_why_a_job_ended_is_not_said_anew_when_it_is_over(failures, job):
    here = job("failed", nodes="n[1-2]")
    here.state.reason = "no such image: x"
    here.cancelled.set()
    failures().break_gang(here, "user", "node n2: another")
    assert here.state.reason == "no such image: x"


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NodeError, "its disk refuses the job's record: "),
        (errno.EDQUOT, NodeError, "its disk refuses the job's record: "),
        (errno.EMFILE, TemporaryError, "lacks what it needs: "),
        (errno.EADDRINUSE, TemporaryError, "lacks what it needs: "),
        (errno.EACCES, NodeError, "its system refuses what the job's sandbox needs: "),
    ],
)
def test_whose_fault_a_refused_call_is(number, kind, words):
    fault = fault_of(OSError(number, os.strerror(number)))
    assert type(fault) is kind
    assert words in fault.message
    assert os.strerror(number) in fault.message
