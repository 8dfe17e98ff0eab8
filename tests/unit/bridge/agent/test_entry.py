"""How the descriptors that the agent passes are told apart."""

import os
import socket

import pytest

from bridge import kernel, wire
from bridge.agent.entry import Entry


@pytest.fixture
def passed():
    """Give descriptors as a keeper gets them: a connection, and as many others as wanted."""
    opened = []

    def passed(count):
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        opened.append(theirs)
        others = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(count)]
        return [ours.detach(), *others]

    yield passed
    for one in opened:
        one.close()


def close(entry, descriptors):
    entry.connection.close()
    for descriptor in descriptors[1:]:
        os.close(descriptor)


STEP = wire.Message("enter", [("fd", b"0"), ("fd", b"1"), ("fd", b"7")])


def test_the_steps_files_keep_their_numbers_and_the_script_comes_last(passed):
    descriptors = passed(6)
    entry = Entry.of(STEP, descriptors)
    assert (entry.connection.fileno(), entry.caller, entry.init) == tuple(descriptors[:3])
    assert entry.step == list(zip((0, 1, 7), descriptors[3:6], strict=True))
    assert entry.script == descriptors[6]
    close(entry, descriptors)


def test_a_step_that_runs_no_batch_script_has_none(passed):
    descriptors = passed(5)
    entry = Entry.of(STEP, descriptors)
    assert entry.script is None
    close(entry, descriptors)


def test_what_the_agent_opened_comes_before_the_steps_files(passed):
    fields = [("namespace", b"pid"), ("namespace", b"mnt"), ("cgroups", b"3"), ("switches", b"1")]
    descriptors = passed(11)
    entry = Entry.of(wire.Message("enter", fields + STEP.fields), descriptors)
    kinds = (kernel.CLONE_NEWPID, kernel.CLONE_NEWNS)
    assert entry.namespaces == list(zip(descriptors[3:5], kinds, strict=True))
    assert entry.cgroups == descriptors[5:8]
    assert entry.switches == descriptors[8]
    assert entry.step == list(zip((0, 1, 7), descriptors[9:], strict=True))
    close(entry, descriptors)


def test_the_connection_waits_whatever_the_agent_had_set(passed):
    descriptors = passed(5)
    os.set_blocking(descriptors[0], False)
    entry = Entry.of(STEP, descriptors)
    assert os.get_blocking(descriptors[0])
    close(entry, descriptors)
