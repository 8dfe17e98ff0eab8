import re
import time

import pytest

from bridge.errors import TemporaryError
from bridge.slurm.lookup import FoundJob, SubmissionLookup

A, B, C = "a" * 32, "b" * 32, "c" * 32
CONFIG = "echo 'AccountingStoreFlags    = job_comment'"
SENT = "echo 'DBD Agent queue size: 0'"


@pytest.fixture
def commands(command):
    """A Slurm that knows no job."""

    def make(squeue=":", sacct=":", scontrol=CONFIG, sdiag=SENT):
        for name, body in locals().items():
            if name != "command":
                command(name, body)

    make()
    return make


MARK = r"""
for word in "$@"; do
    case $word in
    --format=%F*) mark=${word#--format=%F}; mark=${mark%%%V*} ;;
    --delimiter=*) mark=${word#*=} ;;
    esac
done
"""


def rows(*lines):
    """Print rows "<job>|<epoch>|<comment>" in columns that end as they are to end."""
    cells = "".join("%".join([*line.split("|", 2), "\n"]) for line in lines)
    return f"{MARK}sed \"s#%#$mark#g\" <<'E'\n{cells}E"


def find(slurm, *tags):
    return SubmissionLookup(slurm).find(1000, tags, time.time())


def test_a_job_is_found_in_slurmctld_by_its_tag(slurm, commands):
    commands(squeue=rows(f"12|1700000000|my own | words sbridge1?image=a&tag={A}"))
    assert find(slurm, A) == {A: FoundJob(12, 1700000000)}


def test_slurmdbd_is_asked_only_for_what_slurmctld_does_not_know(slurm, commands):
    commands(squeue=rows(f"12|1|sbridge1?tag={A}"), sacct="echo oops; exit 1")
    assert find(slurm, A) == {A: FoundJob(12, 1)}


def test_jobs_that_slurmctld_forgot_are_found_in_slurmdbd(slurm, commands):
    commands(
        squeue=rows(f"12|1|sbridge1?tag={A}"),
        sacct=rows(f"10_[1-3]|5|x sbridge1?tag={B}", f"10_1|5|x sbridge1?tag={B}"),
    )
    assert find(slurm, A, B, C) == {A: FoundJob(12, 1), B: FoundJob(10, 5)}


def test_not_found_is_said_when_both_answered(slurm, commands):
    assert find(slurm, A) == {}


def test_of_several_jobs_with_a_tag_the_first_counts(slurm, commands):
    commands(squeue=rows(f"12|9|sbridge1?tag={A}", f"7|8|sbridge1?tag={A}"))
    assert find(slurm, A) == {A: FoundJob(7, 8)}


@pytest.mark.parametrize(
    "line",
    [
        f"12|1|sbridge1?tag={B}",
        f"12|1|sbridge1?tag={A} and more",
        f"12|1|tag={A}",
        "12|1|(null)",
        "12|1|sbridge1?broken",
        f"12|1|x\n9|1|sbridge1?tag={B}",
    ],
)
def test_other_lines_find_nothing(slurm, commands, line):
    commands(squeue=rows(line))
    assert find(slurm, A) == {}


@pytest.mark.parametrize("own", ["a\nb", "a\n", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b", "9|1|"])
@pytest.mark.parametrize("name", ["squeue", "sacct"])
def test_line_breaks_in_the_users_own_comment_hide_no_tag(slurm, commands, own, name):
    commands(**{name: rows(f"12|1|{own} sbridge1?tag={A}")})
    assert find(slurm, A) == {A: FoundJob(12, 1)}


@pytest.mark.parametrize("text", [f"sbridge1?tag={A}", "12|1|cut o", "x|1|sbridge1?tag=" + A])
def test_an_answer_that_is_no_table_is_could_not_ask(slurm, commands, text):
    commands(squeue=f"echo '{text}'" if text[0] != "x" else rows(text))
    with pytest.raises(TemporaryError, match=r"cannot be read|is no number"):
        find(slurm, A)


@pytest.mark.parametrize("name", ["squeue", "sacct", "scontrol", "sdiag"])
def test_a_command_that_fails_is_could_not_ask(slurm, commands, name):
    commands(**{name: "echo Unable to contact slurm controller >&2; exit 1"})
    with pytest.raises(
        TemporaryError, match=f"could not be asked[^$]*{name}[^$]*Unable to contact"
    ):
        find(slurm, A)


def test_a_slurmdbd_that_keeps_no_comments_cannot_be_believed(slurm, commands):
    commands(scontrol="echo 'AccountingStoreFlags    = (null)'")
    with pytest.raises(TemporaryError, match="AccountingStoreFlags=job_comment"):
        find(slurm, A)


def test_a_slurmctld_that_has_not_told_slurmdbd_all_cannot_be_believed(slurm, commands):
    commands(sdiag="echo 'DBD Agent queue size: 3'")
    with pytest.raises(TemporaryError, match="3 messages for slurmdbd"):
        find(slurm, A)


def test_only_the_owners_jobs_of_the_time_in_question_are_asked_for(slurm, command, commands):
    log = slurm.bin_dir / "log"
    for name in ("squeue", "sacct"):
        command(name, f'echo "$0 $* $SLURM_TIME_FORMAT $SLURM_CONF" >> {log}')
    SubmissionLookup(slurm).find(1000, [A], 1_700_000_000.0)
    squeue, sacct = log.read_text().splitlines()
    assert "--user=1000" in squeue
    assert "--user=1000" in sacct
    assert "--states=all" in squeue
    assert re.search(r"--starttime=2023-11-1[234]T", sacct)
    for line in (squeue, sacct):
        assert line.endswith(f"%s {slurm.conf}")
