"""What becomes of a job on several nodes when this one cannot go on."""

import errno
import time
from types import SimpleNamespace

import pytest

from bridge.agent.failures import Failures
from bridge.agent.gang import Gathered
from bridge.agent.gathering import Gathering
from bridge.agent.job import JobRun, Request, State
from bridge.job_spool import JobSpool

VARIABLES = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}


class Slurm:
    """Keeps what it is asked to do."""

    def __init__(self):
        self.drained = []
        self.requeued = []

    def drain(self, node, reason):
        self.drained.append((node, reason))

    def requeue(self, job_id):
        self.requeued.append(job_id)
        return True


@pytest.fixture
def slurm():
    return Slurm()


@pytest.fixture
def gather(slurm, tmp_path):
    """Gather a job on two nodes with a gang that answers this, or raises it; returns the job."""

    def gather(answer):
        def ask(_job):
            if isinstance(answer, Exception):
                raise answer
            return answer

        log = SimpleNamespace(info=lambda *_, **__: None, error=lambda *_, **__: None)
        sandbox = SimpleNamespace(host_network=True)
        config = SimpleNamespace(sandbox=sandbox)
        node = SimpleNamespace(name="n1", config=config, slurm=slurm, log=log)
        gang = SimpleNamespace(gather=ask, tell=lambda _job: None)
        failures = Failures(node, gang, SimpleNamespace(found_fault=lambda: None))
        asked = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_COMMENT": "sbridge1?image=x"}
        request = Request.of({**VARIABLES, **asked})
        assert request.is_gang
        spool = JobSpool(tmp_path)
        job = JobRun(request, spool, State(name="ready", accepted_at=time.time()))
        gathering = Gathering(node, gang, failures)
        return job, lambda: gathering._gather(job)

    return gather


def test_a_gang_whose_record_the_disk_does_not_take_is_requeued_and_the_node_drained(
    slurm, gather, monkeypatch
):
    def write(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bridge.agent.job.write_atomically", write)
    job, run = gather(Gathered(address="10.0.0.1", port=4000))
    run()
    assert job.is_settled
    assert job.state.blame == "node"
    assert "its disk refuses the job's record" in job.state.reason
    assert slurm.requeued == [7]
    ((node, reason),) = slurm.drained
    assert node == "n1"
    assert "No space left on device" in reason


def test_a_gang_of_an_agent_without_descriptors_is_requeued_and_the_node_not_drained(
    slurm, gather, monkeypatch
):
    def write(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    job, run = gather(Gathered(address="10.0.0.1", port=4000))
    monkeypatch.setattr(job, "advance", write)
    run()
    assert job.state.blame == "nobody"
    assert "Too many open files" in job.state.reason
    assert (slurm.requeued, slurm.drained) == ([7], [])


def test_a_bug_while_a_gang_gathers_ends_its_steps(slurm, gather):
    job, run = gather(KeyError("n2"))
    with pytest.raises(KeyError):
        run()
    assert job.is_settled
    assert job.state.reason == "the sbridge agent failed at making the sandbox; its log tells more"
    assert slurm.requeued == []
