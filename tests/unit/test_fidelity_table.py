"""Whether the table of what a job shows (tests/integration/fidelity) can tell two sides apart."""

from dataclasses import replace

import pytest

from tests.integration.fidelity import verdict
from tests.integration.fidelity.observed import Seen
from tests.integration.fidelity.row import Row

ROW = Row("a title", "echo hi\n", shows=("hi",))
DIFFERENT = replace(ROW, differs={"linuxproc": "a reason"}, instead=("killed",))
SEEN = Seen("", "", {"out": b"hi\n"}, ["JOB|COMPLETED|0:0"])
OTHER = replace(SEEN, files={"out": b"killed\n"})


def holds(native, sandboxed, row=ROW, proctrack="cgroup"):
    table = {(row.title, "native"): native, (row.title, "sandboxed"): sandboxed}
    wanted, seen = verdict.of(row, proctrack, table)
    return wanted == seen


def test_a_row_holds_when_both_sides_are_the_same():
    assert holds(SEEN, SEEN)


@pytest.mark.parametrize(
    "change",
    [
        {"answers": "scancel: 1: no such job"},
        {"files": {"out": b"hi\n", "more": b""}},
        {"files": {"out": b"hi\r\n"}},
        {"files": {"out": b"hi"}},
        {"records": ["JOB|FAILED|1:0"]},
        {"records": SEEN.records * 2},
    ],
)
def test_any_difference_counts(change):
    assert not holds(SEEN, replace(SEEN, **change))


def test_two_sides_that_both_miss_the_point_are_not_the_same():
    missing = replace(SEEN, files={"out": b"\n"})
    assert not holds(missing, missing)


def test_two_sides_that_were_refused_are_the_same_where_that_is_the_point():
    refused = replace(SEEN, refusal="no such partition hi")
    assert not holds(refused, refused)
    assert holds(refused, refused, replace(ROW, is_refused=True))
    assert not holds(SEEN, SEEN, replace(ROW, is_refused=True))


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_that_ran_as_the_other_one_is_compared_with_nothing(side):
    sides = [SEEN, SEEN]
    sides[side] = replace(SEEN, astray=("7",))
    assert not holds(*sides)


def test_a_difference_with_a_reason_must_be_there_and_as_told():
    assert holds(SEEN, OTHER, DIFFERENT, "linuxproc")
    assert not holds(SEEN, SEEN, DIFFERENT, "linuxproc"), "the reason is out of date"
    assert not holds(SEEN, replace(SEEN, files={}), DIFFERENT, "linuxproc")
    assert not holds(SEEN, OTHER, DIFFERENT, "cgroup"), "the reason is for another place"
    assert holds(SEEN, SEEN, DIFFERENT, "cgroup")


def test_a_difference_is_told_by_both_a_reason_and_its_outcome():
    with pytest.raises(ValueError, match="a title"):
        Row("a title", "", differs={"*": "a reason"})
    with pytest.raises(ValueError, match="a title"):
        Row("a title", "", instead=("killed",))
