"""What the agent opens for a keeper, of this very process."""

import os
import socket

import pytest

from bridge import kernel, wire
from bridge.agent.entry import Entry
from bridge.agent.passage import Passage
from bridge.runtimes.sandbox import Sandbox


@pytest.fixture
def own():
    """Give a descriptor of this process's /proc folder."""
    process = kernel.open_process(os.getpid())
    yield process
    os.close(process)


def sandbox_of(own, earlier=0):
    return Sandbox("s", os.getpid(), kernel.start_ticks(own) - earlier)


def name_of(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")


def test_a_keeper_finds_each_descriptor_by_what_it_is_told(own):
    with Passage() as passage:
        init = passage.open_sandbox(sandbox_of(own), (b"ipc", b"pid"))
        passage.open_cgroups(own)
        passage.watch_stops(os.getpid())
        moved = int(dict(passage.orders)["cgroups"])
        message = wire.Message("enter", [*passage.orders, ("fd", b"0")])
        connection, rest = wire_end(), [*passage.descriptors, 0]
        entry = Entry.of(message, [connection, os.dup(own), *rest])
        assert entry.init == init
        names = [(name_of(descriptor), kind) for descriptor, kind in entry.namespaces]
        assert names == [
            (os.readlink("/proc/self/ns/ipc"), kernel.CLONE_NEWIPC),
            (os.readlink("/proc/self/ns/pid"), kernel.CLONE_NEWPID),
        ]
        assert len(entry.cgroups) == moved
        assert all(name_of(cgroup).endswith("/cgroup.procs") for cgroup in entry.cgroups)
        assert entry.switches is None or "perf_event" in name_of(entry.switches)
        assert entry.step == [(0, 0)]
        entry.connection.close()
        os.close(entry.caller)


def wire_end():
    """Return one end of a connection whose other end is closed."""
    one, other = socket.socketpair()
    other.close()
    return one.detach()


def test_a_sandbox_whose_first_process_is_another_one_is_gone(own):
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ProcessLookupError), Passage() as passage:
        passage.open_sandbox(sandbox_of(own, earlier=1), (b"pid",))
    assert set(os.listdir("/proc/self/fd")) == before
