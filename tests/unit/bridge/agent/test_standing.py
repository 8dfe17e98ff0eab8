"""The word that an agent leaves in its node's comment."""

import pytest

from bridge.agent import standing
from bridge.agent.standing import Standing
from bridge.job_spool import RunId

RUN = RunId(30001, 0)
READY = Standing(RUN, port=20001)
FAILED = Standing(RUN, blame="user", reason="no/such image: é sbridge1/30001.0/ready/1\nx")


@pytest.mark.parametrize("told", [READY, FAILED, Standing(RUN)])
def test_what_is_told_is_found_again(told):
    assert standing.find(standing.written("rack 7", [told]), RUN) == told


@pytest.mark.parametrize("run", [RunId(30001, 1), RunId(3000, 0), RunId(0, 0)])
def test_another_runs_word_tells_nothing(run):
    assert standing.find(standing.written("", [READY]), run) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xsbridge1/30001.0/ready/1",
        "sbridge1/30001.0/",
        "sbridge1/30001.0/ready/x",
        "sbridge1/30001.0/later/1",
    ],
)
def test_what_is_no_word_of_ours_tells_nothing(text):
    assert standing.find(text, RUN) is None


@pytest.mark.parametrize("own", ["", "rack 7", '  two  "blanks" ', "line\nbreak", "xsbridge1/1"])
def test_what_others_wrote_stays_as_it_was(own):
    once = standing.written(own, [READY, FAILED])
    assert standing.written(once, [READY, FAILED]) == once
    assert standing.written(once, []) == own


def test_a_long_reason_is_cut():
    told = Standing(RUN, blame="node", reason="x" * 5000)
    assert len(told.word) < 500
