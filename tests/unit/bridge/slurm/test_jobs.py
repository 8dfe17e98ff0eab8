"""Reading what scontrol says, also when a user's text looks like facts."""

import pytest

from bridge.config import Slurm
from bridge.errors import TemporaryError
from bridge.slurm.jobs import (
    Job,
    NodeNote,
    NodeShare,
    SlurmControl,
    kib,
    parse_nodes,
    seconds,
)

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
    return Job.read(12, name, SHOWN.format(name=name))


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


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("", ""),
        ("gpu:2(IDX:0-1)", "0-1"),
        ("gpu:a100:2(IDX:0,2),gpu:h100:1(IDX:5),shard:1", "0,2,5"),
        ("nic:2(IDX:0-1)", ""),
    ],
)
def test_gpus_are_those_of_the_asked_node(gres, gpus):
    text = SHOWN.format(name="x").replace("Mem=500 GRES= ", f"Mem=500 GRES={gres} ")
    assert Job.read(12, "x", text).gpus_of("n2") == gpus
    assert Job.read(12, "x", text).gpus_of("n1") == ""


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


def test_an_answer_without_the_job_is_not_an_answer():
    with pytest.raises(TemporaryError, match="cannot be read"):
        Job.read(12, "hello", "")


class Answering(SlurmControl):
    """A Slurm that knows job 12, task 3 of array 10, beside another task of it."""

    def __init__(self, name="hello", accounted=()):
        super().__init__(Slurm())
        self._name = name
        self._accounted = accounted

    def _run(self, name, *arguments):
        if name == "squeue":
            wanted = arguments[-1].replace("%F", "10").replace("%j", self._name)
            tasks = (
                wanted.replace("%A", i).replace("%K", k) for i, k in (("11", "2"), ("12", "3"))
            )
            return "".join(task.replace("%k", f"of {self._name}") + "\n" for task in tasks)
        if name == "sacct":
            mark = arguments[2].removeprefix("--delimiter=")
            return "".join(mark.join([*row, "\n"]) for row in self._accounted)
        assert (name, arguments[-1]) == ("scontrol", "10_3")
        return SHOWN.format(name=self._name) + "\n"


@pytest.mark.parametrize(
    "name", ["hello", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b", "a\nb", "\n12"]
)
def test_a_name_with_line_breaks_of_any_kind_is_a_name(name):
    job = Answering(name).job(12)
    assert job.fields["JobName"] == name
    assert job.state == "RUNNING"


def test_a_comment_with_a_line_break_is_a_comment():
    variables = Answering("x\n12 y").prolog_variables(12, "n1")
    assert variables["SLURM_JOB_COMMENT"] == "of x\n12 y"
    assert variables["SLURM_JOB_UID"] == "1001"


def accounting_row(job_id, state="", max_rss="", name=""):
    return [job_id, "a", "l", "p", "q", state, "0:0", "", "", "", "n1", max_rss, "", name]


def test_an_accounted_name_that_looks_like_a_row_is_a_name():
    name = "x\n12|root|l|p|q|FAILED|0:0|||||||y"
    record = Answering(accounted=[accounting_row("12", "COMPLETED", name=name)]).accounted(12)
    assert (record["State"], record["JobName"]) == ("COMPLETED", name)


def test_the_memory_of_an_arrays_other_tasks_is_not_counted():
    rows = [
        accounting_row("12", "COMPLETED"),
        accounting_row("12.batch", max_rss="2000K"),
        accounting_row("12.0", max_rss="3M"),
        accounting_row("13", "COMPLETED"),
        accounting_row("13.batch", max_rss="9G"),
        accounting_row("121.batch", max_rss="9G"),
    ]
    assert Answering(accounted=rows).accounted(12)["MaxRSS"] == "3M"


# `scontrol show node` of Slurm 22.05.8, shortened.
NODE = """NodeName={name} Arch=x86_64 CoresPerSocket=1
   Gres=(null)
   NodeAddr=10.0.0.1 NodeHostName=localhost Port=20202 Version=22.05.8
   State=IDLE ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A
   ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s
{comment}
"""


@pytest.mark.parametrize(
    ("shown", "comment"),
    [
        ("", ""),
        ('   Comment=a  "b" c=d', 'a  "b" c=d'),
        ("   Comment=a\n\nb", "a\n\nb"),
        ("   Comment=a\n   Extra=x", "a"),
        ("   Extra=x", ""),
    ],
)
def test_the_comment_of_each_node_is_read_as_it_was_written(shown, comment):
    text = NODE.format(name="n1", comment=shown) + NODE.format(name="n2", comment="   Comment=z")
    assert parse_nodes(text) == {
        "n1": NodeNote("10.0.0.1", comment),
        "n2": NodeNote("10.0.0.1", "z"),
    }
