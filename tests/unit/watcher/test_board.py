import pytest

from watcher import names
from watcher.board import Phase, delay_s
from watcher.scan import Entry, Scan

TAG = "a" * 32


def entry(name: str, *, size: int = 10, changed_ns: int = 5, uid: int = 1000) -> Entry:
    return Entry(name, uid, 1, size, changed_ns, changed_ns)


def scan(*drops: Entry, claims: tuple[Entry, ...] = ()) -> Scan:
    return Scan(drops, claims)


def ready(board, now) -> list[str]:
    return [drop.name for drop in board.ready_drops(now)]


def test_a_scanned_file_is_ready_when_it_has_not_changed_for_a_while(board):
    board.note_scan(scan(entry("a")), 0, 1)
    assert ready(board, 1) == []
    assert board.next_settling() == 4
    board.note_scan(scan(entry("a")), 3, 4)
    assert ready(board, 4) == ["a"]
    assert board.drops["a"].is_settled


def test_a_file_that_changes_settles_anew(board):
    board.note_scan(scan(entry("a")), 0, 1)
    board.note_scan(scan(entry("a", size=11)), 3, 4)
    board.note_scan(scan(entry("a", size=11)), 5, 6)
    assert ready(board, 6) == []
    board.note_scan(scan(entry("a", size=11)), 6, 7)
    assert ready(board, 7) == ["a"]


def test_an_event_makes_a_file_ready_at_once(board):
    board.note_event("a", 1)
    assert ready(board, 1) == ["a"]
    assert not board.drops["a"].is_settled


def test_ignored_names_are_not_noted(board):
    board.note_event(".hidden", 1)
    board.note_scan(scan(entry(names.CLAIMS), entry("x.tmp")), 0, 1)
    assert not board.drops


def test_oldest_come_first_and_events_last(board):
    board.settle_s = 0
    board.note_event("new", 1)
    board.note_scan(scan(entry("b", changed_ns=2), entry("a", changed_ns=3)), 0, 1)
    assert ready(board, 1) == ["b", "a", "new"]


def test_a_file_that_is_gone_is_forgotten(board):
    board.note_scan(scan(entry("a")), 0, 1)
    board.note_scan(scan(), 2, 3)
    assert not board.drops


@pytest.mark.parametrize("noticed_before", [False, True])
def test_a_file_that_came_during_the_scan_is_not_forgotten(board, noticed_before):
    if noticed_before:
        board.note_scan(scan(entry("a")), 0, 1)
    board.note_event("a", 5)
    board.note_scan(scan(), 4, 6)
    assert ready(board, 6) == ["a"]


def test_a_file_that_is_being_taken_is_neither_ready_nor_forgotten(board):
    board.note_event("a", 1)
    board.drops["a"].is_under_way = True
    board.note_scan(scan(), 2, 3)
    assert ready(board, 3) == []
    assert "a" in board.drops


def test_a_new_file_of_the_same_name_comes_after_the_old_one(board):
    board.note_event("a", 1)
    board.drops["a"].is_under_way = True
    board.note_event("a", 2)
    board.forget_drop("a", 3)
    assert ready(board, 3) == ["a"]
    board.forget_drop("a", 4)
    assert ready(board, 4) == []


def test_an_event_makes_a_known_good_file_unknown(board):
    board.note_event("a", 1)
    board.drops["a"].is_known_good = True
    assert board.waiting_for_slurm() == {-1}
    board.note_event("a", 2)
    assert not board.waiting_for_slurm()


def test_a_claim_of_another_process_is_doubtful(board):
    board.note_scan(scan(claims=(entry(f"{TAG}.a.sh", changed_ns=7_000_000_000),)), 0, 1)
    (claim,) = board.ready_claims(Phase.DOUBTFUL, 1)
    assert (claim.tag, claim.name, claim.uid, claim.since) == (TAG, "a.sh", 1000, 7.0)
    assert board.has_doubts()


def test_a_claim_that_ended_during_the_scan_does_not_come_back(board):
    board.begin_scan()
    board.begin_claim(TAG, f"{TAG}.a.sh", 1)
    board.forget_claim(TAG)
    board.note_scan(scan(claims=(entry(f"{TAG}.a.sh"),)), 0, 2)
    assert not board.claims


def test_a_claim_that_was_lost_is_found_by_the_next_scan(board):
    board.begin_scan()
    board.begin_claim(TAG, f"{TAG}.a.sh", 1)
    board.drop_claim(TAG)
    board.note_scan(scan(claims=(entry(f"{TAG}.a.sh"),)), 0, 2)
    assert board.claims[TAG].phase is Phase.DOUBTFUL


def test_a_known_claim_keeps_its_phase_and_is_forgotten_when_it_is_gone(board):
    board.begin_claim(TAG, f"{TAG}.a.sh", 1).phase = Phase.WAITING
    board.claims[TAG].is_under_way = False
    board.note_scan(scan(claims=(entry(f"{TAG}.a.sh"),)), 2, 3)
    assert board.claims[TAG].phase is Phase.WAITING
    board.note_scan(scan(), 4, 5)
    assert not board.claims


def test_what_is_put_off_is_tried_later_and_ever_more_rarely(board):
    board.note_event("a", 0)
    drop = board.drops["a"]
    assert drop.put_off(10, "full")
    assert ready(board, 10.9) == []
    assert board.next_retry(10.5) == 11
    assert ready(board, 11) == ["a"]
    assert not drop.put_off(11, "full")
    assert drop.not_before == 13
    assert drop.put_off(13, "gone")


def test_pauses_double_up_to_a_minute():
    assert [delay_s(n) for n in (0, 1, 2, 5, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60, 60]


def test_a_scan_survives_the_way_through_json():
    original = Scan((entry("a"), entry("\udcff")), (entry(f"{TAG}.b"),), 3, "")
    assert Scan.from_json(original.as_json()) == original
