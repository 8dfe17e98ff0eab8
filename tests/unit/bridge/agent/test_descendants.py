"""Who belongs to a process, however far it went."""

import os
import subprocess
import time

import pytest

from bridge.agent.descendants import descendants

TREE = """
sleep 600 & echo $!
sh -c 'sleep 600 & echo $!; exec sleep 600' & echo $!
(sleep 600 & echo $!)
(setsid sh -c 'echo $$; exec sleep 600' &)
wait
"""


@pytest.fixture
def tree():
    """Start a session of its own; gives its leader and the processes that came of it.

    Two children, a grandchild, one whose parent ended, and one whose parent ended after it had
    left the session: nothing tells any more where that one came from.
    """
    leader = subprocess.Popen(["sh", "-c", TREE], stdout=subprocess.PIPE, start_new_session=True)
    pids = [int(leader.stdout.readline()) for _ in range(5)]
    deadline = time.monotonic() + 30
    while len(descendants(leader.pid, leader.pid)) > len(pids):  # what only started these
        assert time.monotonic() < deadline
    yield leader.pid, pids
    for pid in pids:
        os.kill(pid, 9)
    leader.wait()
    leader.stdout.close()


def test_descendants_and_the_sessions_others_are_found(tree):
    leader, pids = tree
    escaped = [pid for pid in pids if os.getsid(pid) == pid]
    assert len(escaped) == 1
    assert set(descendants(leader, leader)) == {leader, *pids} - set(escaped)


def test_a_process_without_children_is_alone(tree):
    assert descendants(tree[1][0], tree[1][0]) == [tree[1][0]]


def test_the_leader_of_the_session_is_none_of_them(tree):
    leader, pids = tree
    found = descendants(pids[0], leader)
    assert leader not in found
    assert set(found) == {pid for pid in pids if os.getsid(pid) == leader}
