import pytest

from bridge.config import Config
from bridge.errors import TemporaryError
from watcher.board import Phase
from watcher.errands import Outcome
from watcher.submissions import Submissions


@pytest.fixture
def submissions(place, clock):
    return Submissions(place)


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


def drop(board, uid, count):
    for number in range(count):
        name = f"{uid}-{number}.sh"
        board.note_event(name, 100)
        board.drops[name].uid = uid


def test_no_more_children_than_allowed_and_for_each_user_a_share(
    submissions, board, children, clock
):
    most = Config().watcher.parallel_submissions
    drop(board, 1, 20)
    submissions.begin(clock(100))
    assert children.by_owner() == {1: most // 2}
    drop(board, 2, 20)
    submissions.begin(clock(100))
    assert children.by_owner() == {1: most // 2, 2: most // 2}
    drop(board, 3, 20)
    submissions.begin(clock(100))
    assert children.by_owner()[3] == 1


def test_stuck_children_count_against_their_owner_alone(submissions, board, children, clock):
    most = Config().watcher.parallel_submissions
    children.stuck_of[1] = most
    for uid in (1, 2, 3):
        drop(board, uid, 20)
    submissions.begin(clock(100))
    assert children.by_owner() == {1: most, 2: most // 2, 3: most // 2}


def test_users_take_turns(submissions, board, children, clock):
    for uid in (1, 2, 3, 4):
        drop(board, uid, 20)
    submissions.begin(clock(100))
    assert children.owners == [1, 2, 3, 4, 1, 2, 3, 4]


def test_a_deferred_file_waits_until_its_owner_has_room(submissions, board, children, clock):
    drop(board, 1, 4)
    submissions.begin(clock(100))
    board.note_event("whose.sh", 100)
    submissions.begin(clock(100))
    assert children.owners == [1, 1, 1, 1, -1]
    children.owners.insert(0, children.owners.pop())
    children.waiting.insert(0, children.waiting.pop())
    children.end(outcome("deferred", uid=1))
    submissions.begin(clock(101))
    assert children.owners == [1, 1, 1, 1]
    children.end(outcome("submitted", claimed=True, job_id=1, uid=1))
    submissions.begin(clock(102))
    assert children.owners == [1, 1, 1, 1]


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
        children.end(outcome("hindered", claimed=True, reason="Input/output error"))
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
