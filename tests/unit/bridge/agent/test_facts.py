"""What a summary is told of a job, from its request and from Slurm."""

import pytest

from bridge.agent import facts
from bridge.agent.job import JobRun, Request, State
from bridge.job_spool import JobSpool
from bridge.slurm.jobs import parse_job

SHOWN = (
    "JobId=12 JobName=x Restarts=0 JobState=COMPLETED Reason=None ExitCode=0:0 StdErr=/o StdOut=/o"
)
VARIABLES = {"SLURM_JOB_ID": "12", "SLURM_JOB_UID": "1001", "SLURM_JOB_GID": "1002"}


class Slurm:
    """Knows job 12, which is over, and nothing of its usage."""

    def job(self, job_id):
        return parse_job(12, "x", SHOWN)

    def accounted(self, job_id):
        return {}


@pytest.fixture
def told(tmp_path):
    """Return the facts of a job with this comment."""

    def told(comment):
        request = Request.of(VARIABLES | {"SLURM_JOB_COMMENT": comment})
        return facts.collect(JobRun(request, JobSpool(tmp_path), State()), Slurm())

    return told


def test_what_the_job_asked_for_is_told(told):
    found = told("mine sbridge1?image=a&script=%2Fmnt%2F%ED%95%9C.py&tag=4f")
    assert (found["image"], found["script"], found["tag"]) == ("a", "/mnt/한.py", "4f")


def test_the_dropped_files_name_is_told(told):
    assert told("sbridge1?tag=4f&file=%EC%8B%A4%ED%97%98%201.sh")["job_file"] == "실험 1.sh"
    assert told("sbridge1?tag=4f")["job_file"] == ""


def test_a_request_that_cannot_be_read_asks_for_nothing(told):
    found = told("sbridge1?script=%ff")
    assert (found["image"], found["script"], found["state"]) == ("", "", "COMPLETED")
