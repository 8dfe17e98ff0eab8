"""Whether outputs of a further node are due, and how long the batch host's agent waits for them."""

from types import SimpleNamespace

import pytest

from bridge.agent import delivery
from bridge.agent.gang import Gang
from bridge.agent.job import JobRun, Request, State
from bridge.agent.standing import Standing
from bridge.errors import TemporaryError
from bridge.job_spool import JobSpool, RunId
from bridge.slurm.jobs import NodeNote

LOG = SimpleNamespace(warning=lambda *_, **__: None)


def job(tmp_path, nodes="n[1-3]", comment="sbridge1?image=x"):
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}
    asked = {"SLURM_JOB_NODELIST": nodes, "SLURM_JOB_COMMENT": comment}
    return JobRun(Request.of({**variables, **asked}), JobSpool(tmp_path), State())


@pytest.fixture
def clock(monkeypatch):
    """A time that passes only where somebody sleeps."""
    now = SimpleNamespace(time=0.0)

    def sleep(seconds):
        now.time += seconds

    monkeypatch.setattr(delivery, "time", SimpleNamespace(monotonic=lambda: now.time, sleep=sleep))
    return now


def deliveries(*answers):
    """Return them for a gang that answers so, the last time and time again."""
    left = list(answers)

    def telling(_job):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return delivery.Deliveries(SimpleNamespace(telling=telling, withdraw=lambda _: None), LOG)


def test_only_outputs_of_a_further_node_of_a_gang_are_due(tmp_path):
    ran = job(tmp_path)
    assert not delivery.is_due(ran, "n2")  # there is no folder
    ran.spool.outputs.mkdir(parents=True)
    assert not delivery.is_due(ran, "n2")
    (ran.spool.outputs / "x").touch()
    assert delivery.is_due(ran, "n2")
    assert not delivery.is_due(ran, "n1")  # the batch host's own
    assert not delivery.is_due(job(tmp_path, comment=""), "n2")
    assert not delivery.is_due(job(tmp_path, nodes="n1"), "n1")


def test_a_job_on_one_node_waits_for_nobody(tmp_path):
    assert deliveries(TemporaryError("not asked")).wait(job(tmp_path, nodes="n1")) == []


def test_the_batch_host_waits_until_no_other_node_tells_of_the_run(tmp_path, clock):
    assert deliveries(["n2", "n3"], ["n3"], ["n3"], []).wait(job(tmp_path)) == []
    assert 0 < clock.time < 1


def test_a_node_that_never_delivers_is_named_after_ten_minutes_in_all(tmp_path, clock):
    some = deliveries(TemporaryError("no slurmctld"), ["n3"])
    ran = job(tmp_path)
    with pytest.raises(TemporaryError):
        some.wait(ran)
    clock.time += 500
    assert some.wait(ran) == ["n3"]
    assert 600 <= clock.time < 610


def test_a_gang_knows_which_other_nodes_still_tell_of_a_run(tmp_path):
    word = Standing(RunId(7, 0)).word
    later = Standing(RunId(7, 1)).word
    notes = {
        "n1": NodeNote("a", word),
        "n2": NodeNote("b", f"x {word}"),
        "n3": NodeNote("c", later),
    }
    gang = Gang("n1", SimpleNamespace(node_notes=lambda _: notes), LOG)
    assert gang.telling(job(tmp_path)) == ["n2"]
