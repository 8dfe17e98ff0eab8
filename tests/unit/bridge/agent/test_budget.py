import pytest

from bridge import wire
from bridge.agent import budget
from bridge.agent.budget import Budget, BusyError, Purse


def test_a_user_gets_no_more_than_his_share_and_others_theirs():
    shared = Budget(per_user=100, total=1000)
    assert shared.take(1, 100)
    assert not shared.take(1, 1)
    assert shared.take(2, 100)
    shared.give_back(1, 100)
    assert shared.take(1, 100)


def test_all_users_together_get_no_more_than_the_total():
    shared = Budget(per_user=100, total=150)
    assert shared.take(1, 100)
    assert not shared.take(2, 100)
    assert shared.take(2, 50)


def test_a_purse_gives_back_what_it_took_once():
    shared = Budget(per_user=100, total=100)
    purse = Purse(shared, 7)
    purse.pay(60)
    with pytest.raises(BusyError, match="fill this node's agent"):
        purse.pay(60)
    purse.close()
    purse.close()
    assert shared.take(8, 100)


def test_roots_hooks_pay_nothing():
    Purse(Budget(per_user=1, total=1), 0).pay(1000)


def test_a_message_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(budget, "MESSAGE_S", -1.0)
    with pytest.raises(wire.WireError, match="took more than"):
        Purse(Budget(), 7).pay(0)


def test_the_largest_message_fits_into_one_users_share():
    most = wire.MAX_MESSAGE_BYTES * wire._BYTE_COST + wire.MAX_FIELDS * wire._FIELD_COST
    assert most <= budget.PER_USER_BYTES
