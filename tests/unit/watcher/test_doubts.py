"""Doubts and submissions with children that a test lets end as it likes."""

import time

import pytest

from bridge.config import Config
from bridge.errors import TemporaryError
from watcher.board import Board, Phase
from watcher.doubts import Doubts
from watcher.errands import Outcome
from watcher.locks import StateFolder
from watcher.submissions import Submissions

TAG = "a" * 32


class HeldChildren:
    """Children that are never forked; `end` tells the oldest one's result."""

    stuck = 0

    def __init__(self):
        self.waiting = []

    def begin(self, work, done, *, timeout_s, ends_with_parent):
        self.waiting.append(done)

    def end(self, result=None, trouble=None):
        self.waiting.pop(0)(result, trouble)


@pytest.fixture
def children():
    return HeldChildren()


@pytest.fixture
def state(tmp_path):
    folder = StateFolder(tmp_path)
    yield folder
    folder.close()


@pytest.fixture
def board():
    return Board(settle_s=3.0)


@pytest.fixture
def clock(monkeypatch):
    """Set the time that time.monotonic tells."""

    def set_to(now):
        monkeypatch.setattr(time, "monotonic", lambda: now)
        return now

    set_to(100.0)
    return set_to


@pytest.fixture
def doubts(state, board, children, mocker, clock):
    return Doubts(Config(), state, board, children, mocker.Mock())


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


@pytest.fixture
def submissions(state, board, children, mocker, clock):
    return Submissions(Config(), state, board, children, mocker.Mock())


def outcome(kind, **facts):
    return Outcome(kind, **facts).as_json()


def test_while_slurm_is_away_a_good_file_is_looked_at_once(submissions, board, children, clock):
    board.note_event("first.sh", 100)
    submissions.begin(clock(100))
    children.end(outcome("not_reached", claimed=True, reason="connect failure"))
    board.note_event("second.sh", 100)
    submissions.begin(clock(100.1))
    children.end(outcome("valid"))
    submissions.begin(clock(100.2))
    assert children.waiting == []
    assert submissions.next_try() == 100.5
    submissions.begin(clock(100.5))
    assert len(children.waiting) == 1  # one submission tries for all
    children.end(outcome("submitted", claimed=True, job_id=1))
    submissions.begin(clock(100.6))
    children.end(outcome("submitted", claimed=True, job_id=2))
    assert not board.drops
    assert not board.claims
    assert submissions.next_try() is None


def test_no_more_children_than_allowed(submissions, board, children, clock):
    for number in range(20):
        board.note_event(f"{number}.sh", 100)
    children.stuck = 1
    submissions.begin(clock(100))
    assert len(children.waiting) == Config().watcher.parallel_submissions - 1


def test_an_accepted_file_that_cannot_be_put_away_is_never_submitted_again(
    submissions, board, children, clock
):
    board.note_event("a.sh", 100)
    submissions.begin(clock(100))
    full = outcome("accepted", claimed=True, job_id=7, reason="No space left on device")
    children.end(full)
    (claim,) = board.claims.values()
    for _ in range(3):
        assert (claim.phase, claim.job.job_id) == (Phase.ACCEPTED, 7)
        submissions.begin(clock(claim.not_before))
        children.end(full)
    submissions.begin(clock(claim.not_before))
    children.end(None, TemporaryError("did not answer within 30 s"))
    assert claim.phase is Phase.ACCEPTED


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        ("not_reached", Phase.WAITING),
        ("hindered", Phase.WAITING),
        ("doubtful", Phase.DOUBTFUL),
        ("accepted", Phase.ACCEPTED),
    ],
)
def test_a_claimed_file_is_remembered_as_its_child_told(
    submissions, board, children, clock, kind, phase
):
    board.note_event("a.sh", 100)
    submissions.begin(clock(100))
    children.end(outcome(kind, claimed=True, job_id=7, uid=1000, reason="r"))
    (claim,) = board.claims.values()
    assert (claim.phase, claim.uid, board.drops) == (phase, 1000, {})


def test_a_child_that_is_lost_leaves_a_doubt_to_the_next_scan(submissions, board, children, clock):
    board.note_event("a.sh", 100)
    submissions.begin(clock(100))
    children.end(None, TemporaryError("was ended by SIGKILL"))
    assert not board.claims
    assert board.drops["a.sh"].not_before > 100
