import os
import selectors
import signal
import time

import pytest

from bridge import as_user
from bridge.as_user import Child, ChildCrashed, ChildLost
from watcher.children import Children


@pytest.fixture
def selector():
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def log(mocker):
    return mocker.Mock()


@pytest.fixture
def children(selector, log):
    return Children(selector, log)


@pytest.fixture
def told():
    return []


def begin(children, told, work, timeout_s=10.0, owner=None):
    return children.begin(
        work,
        lambda result, trouble: told.append((result, trouble)),
        timeout_s=timeout_s,
        ends_with_parent=True,
        owner=owner,
    )


def loop_until(selector, condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        for key, _ in selector.select(0.1):
            key.data()


def test_a_childs_result_is_told(children, selector, told):
    child = begin(children, told, lambda: 42)
    assert children.holds(child)
    loop_until(selector, lambda: told)
    assert told == [(42, None)]
    assert not children.holds(child)
    assert not selector.get_map()


def test_a_crash_is_told_and_logged(children, selector, told, log):
    begin(children, told, lambda: 1 // 0)
    loop_until(selector, lambda: told)
    assert isinstance(told[0][1], ChildCrashed)
    assert log.error.call_args.args == ("child_crashed",)


def test_a_child_that_takes_too_long_is_told_as_lost_and_ended(children, selector, told):
    child = begin(children, told, signal.pause, timeout_s=0.05)
    assert children.next_deadline() == child.deadline
    children.end_overdue(child.deadline - 0.01)
    assert told == []
    children.end_overdue(child.deadline)
    assert isinstance(told[0][1], ChildLost)
    loop_until(selector, lambda: not children.holds(child))
    assert len(told) == 1


def test_a_child_that_cannot_be_ended_counts_as_stuck(children, selector, told, monkeypatch):
    child = begin(children, told, signal.pause, timeout_s=0.05, owner=1000)
    with monkeypatch.context() as patch:
        patch.setattr(Child, "kill", lambda _: None)  # as if it hung in the kernel
        children.end_overdue(child.deadline)
    assert (len(told), children.stuck, children.holds(child)) == (1, 1, True)
    assert children.by_owner() == {1000: 1}
    assert children.next_deadline() is None
    children.end_all()
    loop_until(selector, lambda: not children.holds(child))
    assert (children.stuck, children.by_owner()) == (0, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_child_counts_for_whom_it_became(children, selector, told, ordinary):
    def work():
        as_user.become(ordinary.uid, ordinary.gid)
        signal.pause()

    begin(children, told, work, owner=-1)
    loop_until(selector, lambda: children.by_owner() == {ordinary.uid: 1})
    children.end_all()
    loop_until(selector, lambda: told)
    assert children.by_owner() == {}


def test_a_child_that_works_for_nobody_is_not_counted(children, selector, told):
    begin(children, told, signal.pause)
    assert children.by_owner() == {}
    children.end_all()
    loop_until(selector, lambda: told)


def test_a_machine_without_room_for_a_child_is_told_as_a_lost_child(
    children, told, monkeypatch, selector
):
    def full():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", full)
    assert begin(children, told, lambda: 42) is None
    ((result, trouble),) = told
    assert (result, type(trouble)) == (None, ChildLost)
    assert "could not be started: Resource temporarily unavailable" in str(trouble)
    assert not selector.get_map()
