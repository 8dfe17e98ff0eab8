"""Reading what scontrol says, also when a user's text looks like facts."""

import pytest

from bridge.config import Slurm
from bridge.errors import TemporaryError
from bridge.slurm.jobs import NodeShare, SlurmControl, kib, parse_job, seconds

# `scontrol -d -o show job` of Slurm 22.05.8; only the name is replaced.
SHOWN = (
    "JobId=12 JobName={name} UserId=alice(1001) GroupId=alice(1002) MCS_label=N/A Priority=100000 "
    "Nice=0 Account=lab QOS=normal JobState=RUNNING Reason=None Dependency=(null) Requeue=1 "
    "Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 DerivedExitCode=0:0 RunTime=00:00:01 "
    "TimeLimit=01:00:00 TimeMin=N/A SubmitTime=2026-11-22T05:07:42 "
    "StartTime=2026-11-22T05:07:42 EndTime=2026-11-22T06:07:42 Partition=main "
    "NodeList=n[1-2] BatchHost=n1 NumNodes=2 NumCPUs=3 "
    "TRES=cpu=3,mem=1500M,node=2,billing=3 "
    "JOB_GRES=(null) Nodes=n1 CPU_IDs=0-1 Mem=1000 GRES= Nodes=n2 CPU_IDs=3 Mem=500 GRES= "
    "MinCPUsNode=1 MinMemoryCPU=500M Features=(null) Command=/home/alice/job.sh "
    "WorkDir=/home/alice Comment=JobState=COMPLETED StdErr=/home/alice/o "
)


def shown(name="hello"):
    return parse_job(12, name, SHOWN.format(name=name))


def test_state_and_times_are_read():
    job = shown()
    assert job.state == "RUNNING"
    assert not job.is_over
    assert job.fields["StartTime"] == "2026-11-22T05:07:42"
    assert job.fields["JobName"] == "hello"


@pytest.mark.parametrize(
    ("node", "share"),
    [("n1", NodeShare(2, 1000)), ("n2", NodeShare(1, 500)), ("n3", None)],
)
def test_share_is_that_of_the_asked_node(node, share):
    assert shown().share_of(node) == share


def test_a_name_that_looks_like_facts_changes_nothing():
    job = shown("x JobState=COMPLETED Nodes=n1 CPU_IDs=0-99 Mem=0 ")
    assert job.state == "RUNNING"
    assert job.share_of("n1") == NodeShare(2, 1000)


def test_a_comment_that_looks_like_facts_changes_nothing():
    assert shown().fields["JobState"] == "RUNNING"


def test_slurm_that_cannot_be_asked_is_not_slurm_that_says_no(tmp_path):
    control = SlurmControl(Slurm(bin_dir=tmp_path))
    with pytest.raises(TemporaryError, match="could not be asked"):
        control.job(1)
    with pytest.raises(TemporaryError, match="could not be asked"):
        control.jobs_on("n1")


@pytest.mark.parametrize(
    ("text", "amount"), [("3500K", 3500), ("1.50M", 1536), ("2G", 2 << 20), ("0", 0), ("", 0)]
)
def test_memory_is_read_as_kib(text, amount):
    assert kib(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("00:01.500", 1.5), ("01:02:03", 3723), ("1-00:00:01", 86401), ("", None), ("x", None)],
)
def test_times_are_read_as_seconds(text, amount):
    assert seconds(text) == amount


def test_an_arrays_other_tasks_in_the_answer_do_not_matter():
    others = SHOWN.format(name="hello").replace("JobId=12 ", "JobId=11 ArrayJobId=12 ")
    text = others.replace("RUNNING", "FAILED") + "\n" + SHOWN.format(name="hello")
    assert parse_job(12, "hello", text).state == "RUNNING"


def test_an_answer_without_the_job_is_not_an_answer():
    with pytest.raises(TemporaryError, match="cannot be read"):
        parse_job(12, "hello", "")
