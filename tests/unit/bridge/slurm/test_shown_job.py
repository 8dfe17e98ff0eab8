"""Facts and a user's own text in `scontrol show job`, where releases of Slurm differ."""

import pytest

from bridge.slurm.shown_job import extra_of, fields_of

REQUEST = "sbridge1?image=a%2Fb"
# 26.05.5, shortened; 24.11 has no SubmitLine and other blanks.
SHOWN = (
    "JobId=7 JobName=x SLUID=sB0SM8BA3RM100 UserId=alice(1001) JobState=RUNNING Nodes=n1 "
    "Command=/home/alice/x.sh {line}WorkDir=/home/alice Comment={comment}{blanks}"
    "Extra={extra}{blanks}StdErr={stderr} StdIn=/dev/null StdOut=/home/alice/out "
)


def read(line="", comment="mine", extra=REQUEST, stderr="", blanks=" "):
    shown = SHOWN.format(line=line, comment=comment, extra=extra, stderr=stderr, blanks=blanks)
    return fields_of(7, "x", shown)


def test_stderr_that_is_not_named_is_stdouts():
    assert read()["StdErr"] == "/home/alice/out"
    assert read(stderr="/home/alice/err")["StdErr"] == "/home/alice/err"


@pytest.mark.parametrize("line", ["", "SubmitLine=sbatch x.sh WorkDir=/x StdOut=/y Extra=z "])
def test_what_was_said_to_sbatch_is_no_fact(line):
    fields = read(line)
    assert (fields["WorkDir"], fields["StdOut"]) == ("/home/alice", "/home/alice/out")
    assert extra_of(fields, "mine") == REQUEST


def test_a_comment_or_extra_names_no_stream():
    fields = read(comment="StdOut=/x", extra="StdErr=/y", stderr="/home/alice/err")
    assert (fields["StdOut"], fields["StdErr"]) == ("/home/alice/out", "/home/alice/err")


@pytest.mark.parametrize("blanks", [" ", "  "])
@pytest.mark.parametrize("own", ["", "my own ", "a=b c=d ", "line\nbreak= "])
def test_the_request_is_found_behind_the_users_own_extra(own, blanks):
    assert extra_of(read(extra=own + REQUEST, blanks=blanks), "mine") == own + REQUEST


def test_a_comment_is_not_taken_for_the_extra():
    comment = "Extra=sbridge1?image=evil"
    assert extra_of(read(comment=comment, extra="none"), comment) == ""
    assert extra_of(read(comment=comment), comment) == REQUEST


def test_parts_of_a_heterogeneous_job_are_told_apart():
    """Slurm 22.05 shows all of them for the first one's id."""
    first = "JobId=7 HetJobId=7 HetJobOffset=0 JobName=x HetJobIdSet=7-8 JobState=FAILED StdOut=/a "
    other = "JobId=8 HetJobId=7 HetJobOffset=1 JobName=x HetJobIdSet=7-8 JobState=DONE StdOut=/b "
    fields = fields_of(7, "x", f"{first}\n\n{other}\n")
    told = (fields["HetJobOffset"], fields["JobState"], fields["StdOut"])
    assert told == ("0", "FAILED", "/a")
    assert "JobId=8" not in fields["_details"]
    assert fields_of(8, "x", f"{other}\n")["HetJobOffset"] == "1"
