"""How the agent finds the keeper of a task's step; here nobody is behind the lines."""

import os
import socket
import threading

import pytest

from bridge import wire
from bridge.agent.forge import receive
from bridge.agent.keepers import Keepers

ORDER = wire.Message("enter", [("arg", b"x")])


class Forge:
    """Remembers the ends of the lines that keepers would have got."""

    def __init__(self):
        self.lines = []

    def send(self, order, descriptors):
        self.lines.append(socket.socket(fileno=os.dup(descriptors[0])))


@pytest.fixture
def forge():
    made = Forge()
    yield made
    for line in made.lines:
        line.close()


@pytest.fixture
def keepers(forge):
    made = Keepers(forge)
    yield made
    for line in made._lines.values():
        line.ours.close()
        line.theirs.close()


def test_tasks_of_a_step_go_to_its_keeper_and_other_steps_to_others(keepers, forge):
    with open("/dev/null", "rb") as file:
        for step in ("a", "b", "a", "a"):
            keepers.hold(step, ORDER, [file.fileno()])
    assert len(forge.lines) == 2
    for _ in range(2):
        message, descriptors = receive(forge.lines[0])
        assert message.fields == ORDER.fields
        assert len(descriptors) == 1
        wire.close_all(descriptors)
    forge.lines[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(forge.lines[1])


@pytest.mark.parametrize("end", ["closed", "shut"])
def test_a_keeper_that_takes_no_more_gets_a_successor(keepers, forge, end):
    keepers.hold("a", ORDER, [])
    if end == "closed":
        forge.lines[0].close()
    else:
        forge.lines[0].shutdown(socket.SHUT_RD)
    keepers.hold("a", ORDER, [])
    assert len(forge.lines) == 2
    keepers.hold("a", ORDER, [])
    assert receive(forge.lines[1])[0].fields == ORDER.fields


def test_lines_of_keepers_that_ended_are_not_kept(keepers, forge):
    for number in range(50):
        keepers.hold(f"step {number}", ORDER, [])
        forge.lines[-1].close()
    assert len(keepers._lines) == 1


def test_a_keeper_that_does_not_listen_gets_a_successor(keepers, forge, monkeypatch):
    monkeypatch.setattr("bridge.agent.keepers._SILENCE_S", 0.05)
    long = wire.Message("enter", [("arg", b"x" * 4_000_000)])
    keepers.hold("a", ORDER, [])
    keepers.hold("a", long, [])
    assert len(forge.lines) == 2
    with pytest.raises(wire.WireError):
        receive(forge.lines[0])  # half a message, which is no task


def test_tasks_that_come_at_the_same_time_share_one(keepers, forge):
    threads = [threading.Thread(target=keepers.hold, args=("a", ORDER, [])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(forge.lines) == 1
    for _ in range(15):
        assert receive(forge.lines[0])[0] is not None


def test_a_dead_forge_is_told(keepers, monkeypatch):
    def refuse(*_):
        raise BrokenPipeError

    monkeypatch.setattr(keepers._forge, "send", refuse)
    with pytest.raises(BrokenPipeError):
        keepers.hold("a", ORDER, [])
