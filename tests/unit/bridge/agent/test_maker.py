"""Whose fault it is that a sandbox cannot be made because a call failed."""

import errno
import os
import time
from types import SimpleNamespace

import pytest

from bridge.agent.job import JobRun, Request, State
from bridge.agent.maker import Maker
from bridge.job_spool import JobSpool

VARIABLES = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}


@pytest.fixture
def make(tmp_path, log, monkeypatch):
    """Have the making fail with an errno, once; returns the job and who was blamed."""

    def make(number):
        blamed = []
        failures = SimpleNamespace(blame_node=lambda job, error: blamed.append(error.message))
        node = SimpleNamespace(log=log)
        maker = Maker(node, None, None, None, None, None, failures)
        job = JobRun(Request.of(VARIABLES), JobSpool(tmp_path), State(accepted_at=time.time()), 60)

        def refuse():
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(job, "make_durable", refuse)
        monkeypatch.setattr(job, "say", lambda text: job.cancelled.set())  # one try is enough
        maker._make(job)
        return blamed

    return make


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_does_not_take_the_record_is_the_nodes_fault(make, number):
    (reason,) = make(number)
    assert reason.startswith("its disk refuses the job's record: ")
    assert os.strerror(number) in reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_other_jobs_will_give_back_is_waited_for(make, log, number):
    assert make(number) == []
    ((event, facts),) = log.lines
    assert event == "sandbox_delayed"
    assert facts["run"] == "7.0"
    assert "disk" not in facts["reason"]
    assert os.strerror(number) in facts["reason"]


def test_another_refusal_of_the_system_is_not_called_the_disks(make):
    (reason,) = make(errno.EACCES)
    assert "disk" not in reason
    assert "Permission denied" in reason
