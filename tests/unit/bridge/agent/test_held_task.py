"""What is done for a task before and beside its process, without a sandbox."""

import errno
import os
import select
import socket
from types import SimpleNamespace

import pytest

from bridge import wire
from bridge.agent.entry import Entry
from bridge.agent.held_task import HeldTask


@pytest.fixture
def held():
    """Return a task that has not begun, of these fields and this batch script."""
    made = []

    def held(*fields, script=None):
        here, there = socket.socketpair()
        made.extend((here, there))
        entry = Entry(wire.Message("enter", list(fields)), here, -1, -1, script, [])
        return HeldTask(entry, select.poll(), lambda: True)

    yield held
    for one in made:
        one.close()


@pytest.fixture
def spooling(held, tmp_path):
    """Return a task whose batch script is to be shown as `copy`; both files are in tmp_path."""
    script = tmp_path / "script"
    script.write_bytes(b"#!/bin/sh\n" * 9)
    descriptor = os.open(script, os.O_RDONLY)
    fields = [("uid", b"%d" % os.getuid()), ("script_copy", os.fsencode(tmp_path / "copy"))]
    yield held(*fields, script=descriptor)
    os.close(descriptor)


def test_the_batch_script_is_copied_to_where_the_sandbox_shows_it(spooling, tmp_path):
    spooling._spool_script()
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "script").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "script"]


@pytest.mark.parametrize("call", ["write", "fchown", "rename"])
def test_a_copy_of_the_batch_script_that_fails_leaves_nothing(
    spooling, tmp_path, monkeypatch, call
):
    def fail(*arguments):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="quota"):
        spooling._spool_script()
    assert list(tmp_path.iterdir()) == [tmp_path / "script"]


def test_a_watched_process_that_is_over_is_not_looked_at_again_and_again(held):
    """Whatever else its descriptor has to tell: here a byte that nobody reads."""
    task = held()
    looks, told = os.pipe(), []
    os.write(looks[1], b"!")
    os.close(looks[1])
    task._trouble = -1
    task._stops = SimpleNamespace(descriptor=looks[0], saw_stop=lambda: told.append(1) and False)
    task._watch(looks[0])
    for _ in range(3):
        task.serve(dict(task._poll.poll(0)))
    os.close(looks[0])
    assert len(told) == 1
