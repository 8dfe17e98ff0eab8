import pytest

from bridge.config import Config
from bridge.errors import TemporaryError
from watcher.board import Phase
from watcher.doubts import Doubts
from watcher.locks import StateFolder

TAG = "a" * 32


@pytest.fixture
def doubts(place, clock):
    return Doubts(place)


@pytest.fixture
def claim(board):
    claim = board.begin_claim(TAG, f"{TAG}.a.sh", 0)
    claim.is_under_way = False
    return claim


def ask(doubts, children, clock, now, found=None, trouble=None):
    doubts.begin(clock(now))
    assert len(children.waiting) == 1
    children.end({} if found is None else found, trouble)


def test_a_found_job_is_accepted(doubts, children, clock, claim):
    ask(doubts, children, clock, 100, {TAG: (12, 5)})
    assert (claim.phase, claim.job.job_id) == (Phase.ACCEPTED, 12)


def test_a_denial_counts_only_after_it_has_lasted(doubts, children, clock, claim):
    settle_s = Config().watcher.doubt_settle_s
    ask(doubts, children, clock, 100)
    assert claim.phase is Phase.DOUBTFUL
    doubts.begin(clock(100 + settle_s - 0.1))
    assert children.waiting == []
    ask(doubts, children, clock, 100 + settle_s)
    assert claim.phase is Phase.WAITING


def test_a_job_that_appears_meanwhile_is_accepted(doubts, children, clock, claim):
    ask(doubts, children, clock, 100)
    ask(doubts, children, clock, 200, {TAG: (12, 5)})
    assert claim.phase is Phase.ACCEPTED


def test_no_answer_settles_nothing_and_is_asked_for_again_later(doubts, children, clock, claim):
    ask(doubts, children, clock, 100, trouble=TemporaryError("slurmctld is down"))
    assert claim.phase is Phase.DOUBTFUL
    assert claim.denied_since is None
    doubts.begin(clock(100.9))
    assert children.waiting == []
    assert doubts.next_question() == 101
    ask(doubts, children, clock, 101, trouble=TemporaryError("still"))
    assert doubts.next_question() == 103


def test_a_submission_that_somebody_works_on_is_not_asked_for(
    doubts, children, clock, claim, mocker
):
    mocker.patch.object(StateFolder, "is_free", return_value=False)
    doubts.begin(clock(100))
    assert children.waiting == []
    assert claim.not_before > 100
