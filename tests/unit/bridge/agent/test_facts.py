"""What a summary is told of a job, from its request and from Slurm."""

import pytest

from bridge.agent import facts
from bridge.agent.job import JobRun, Request, State
from bridge.errors import TemporaryError
from bridge.job_spool import JobSpool
from bridge.slurm.jobs import Job

SHOWN = (
    "JobId=12 JobName=x Restarts=0 JobState=COMPLETED Reason=None ExitCode=0:0 StdErr=/o StdOut=/o"
)
VARIABLES = {"SLURM_JOB_ID": "12", "SLURM_JOB_UID": "1001", "SLURM_JOB_GID": "1002"}


class Slurm:
    """Knows job 12, which is over, and nothing of its usage."""

    def job(self, job_id):
        return Job.read(12, "x", SHOWN)

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


@pytest.fixture
def ended(tmp_path):
    """Return the facts of a run that ended when slurmctld and slurmdbd say this of the job."""

    def ended(shown, accounted=None, restart=0, finish=None):
        class Said(Slurm):
            def job(self, job_id):
                return Job.read(12, "x", f"JobId=12 JobName=x {shown}") if shown else None

            def accounted(self, job_id):
                return accounted or {}

        request = Request.of(VARIABLES | {"SLURM_JOB_RESTART_COUNT": str(restart)})
        state = State(finish=finish or {})
        return facts.collect(JobRun(request, JobSpool(tmp_path), state), Said())

    return ended


@pytest.mark.parametrize("number", [9, 11, 15])
def test_a_script_that_a_signal_ended_keeps_its_signal(ended, number):
    found = ended(f"Restarts=0 JobState=FAILED Reason=JobLaunchFailure ExitCode=0:{number}")
    assert (found["exit_code"], found["signal"], found["reason"]) == (0, number, "")


def test_a_script_that_slurm_could_not_start_has_no_exit_code_and_no_signal(ended):
    found = ended("Restarts=0 JobState=FAILED Reason=JobLaunchFailure ExitCode=0:53")
    assert (found["exit_code"], found["signal"]) == (None, None)
    assert found["reason"] == "JobLaunchFailure"


def test_slurms_mark_for_lack_of_memory_is_no_signal(ended):
    found = ended("Restarts=0 JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125")
    assert (found["exit_code"], found["signal"]) == (None, None)
    assert (found["state"], found["reason"]) == ("OUT_OF_MEMORY", "OutOfMemory")


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "RUNNING", "COMPLETED", "FAILED"])
def test_a_run_that_slurm_has_counted_past_was_requeued(ended, state):
    later = {"State": "RUNNING", "MaxRSS": "9M", "TotalCPU": "00:09"}
    shown = f"Restarts=3 JobState={state} Reason=None ExitCode=0:0"
    found = ended(shown, later, restart=2, finish={"SLURM_JOB_EXIT_CODE": "0"})
    assert (found["state"], found["exit_code"], found["signal"]) == ("REQUEUED", None, None)
    assert "max_rss_kib" not in found
    assert found["reason"] == "the job was requeued"


OVER = "Restarts=0 JobState=COMPLETED Reason=None ExitCode=0:0"


def test_usage_is_slurms_or_what_keepers_saw_whichever_is_more(ended, tmp_path):
    (tmp_path / "usage").write_text("4.500 3000\n0.250 100\n")
    found = ended(OVER, {"MaxRSS": "9000K", "TotalCPU": "00:03.010"})
    assert (found["cpu_s"], found["max_rss_kib"]) == (4.75, 9000)
    found = ended(OVER, {"MaxRSS": "100K", "TotalCPU": "01:00.000"})
    assert (found["cpu_s"], found["max_rss_kib"]) == (60, 3000)


def test_usage_is_what_keepers_saw_where_slurm_tells_none(ended, tmp_path):
    assert (ended(OVER)["cpu_s"], ended(OVER)["max_rss_kib"]) == (None, None)
    (tmp_path / "usage").write_text("4.500 3000\n")
    assert (ended(OVER)["cpu_s"], ended(OVER)["max_rss_kib"]) == (4.5, 3000)


def test_a_run_that_a_restored_slurmctld_calls_running_is_not_called_requeued(ended):
    shown = "Restarts=0 JobState=RUNNING Reason=None ExitCode=0:0"
    with pytest.raises(TemporaryError, match="job 12 is RUNNING, although this run of it ended"):
        ended(shown, {"State": "RUNNING"})
    with pytest.raises(TemporaryError, match="RUNNING"):
        ended(shown)
    end = "2026-01-31T12:00:00"
    found = ended(shown, {"State": "CANCELLED by 0", "ExitCode": "0:15", "End": end})
    assert (found["state"], found["exit_code"], found["signal"]) == ("CANCELLED", 0, 15)
    assert found["ended"] is not None


def test_slurm_is_given_time_to_free_the_nodes(ended, monkeypatch):
    answers = iter(["COMPLETING", "COMPLETING", "COMPLETED"])
    monkeypatch.setattr(facts, "_STEP_S", 0.0)

    class Shown:
        def __bool__(self):
            return True

        def __format__(self, spec):
            return f"Restarts=0 JobState={next(answers)} Reason=None ExitCode=0:0"

    assert ended(Shown())["state"] == "COMPLETED"


def test_a_run_that_only_slurmdbd_knows_as_requeued_is_told_so(ended):
    found = ended("Restarts=0 JobState=PENDING Reason=None ExitCode=0:0", {"State": "REQUEUED"})
    assert (found["state"], found["exit_code"]) == ("REQUEUED", None)


def test_a_job_that_slurmctld_has_forgotten_ended_as_slurmdbd_says(ended):
    found = ended("", {"State": "FAILED", "ExitCode": "0:11"})
    assert (found["state"], found["exit_code"], found["signal"]) == ("FAILED", 0, 11)


def test_a_run_whose_nodes_are_never_free_ended_as_slurmdbd_says(ended, monkeypatch):
    monkeypatch.setattr(facts, "_COMPLETING_S", 0.0)
    shown = "Restarts=0 JobState=COMPLETING Reason=NodeDown ExitCode=0:0"
    assert ended(shown, {"State": "TIMEOUT", "ExitCode": "0:0"})["state"] == "TIMEOUT"


def test_an_exit_code_that_sacct_may_have_cut_is_not_told(ended):
    found = ended("", {"State": "FAILED", "ExitCode": "2:0"})  # 2 or 130
    assert (found["state"], found["exit_code"]) == ("FAILED", None)


@pytest.mark.parametrize(
    ("shown", "is_further"),
    [("", False), ("HetJobId=12 HetJobOffset=0", False), ("HetJobId=11 HetJobOffset=1", True)],
)
def test_a_further_part_of_a_heterogeneous_job_is_told_from_its_first(ended, shown, is_further):
    assert ended(f"{shown} Restarts=0 JobState=COMPLETED")["is_further_part"] is is_further
