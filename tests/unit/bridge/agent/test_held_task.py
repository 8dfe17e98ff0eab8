"""What is done for a task before and beside its process, without a sandbox."""

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


def test_the_batch_script_is_copied_to_where_the_sandbox_shows_it(held, tmp_path):
    script = tmp_path / "script"
    script.write_bytes(b"#!/bin/sh\n" * 9)
    fields = [("uid", b"%d" % os.getuid()), ("script_copy", os.fsencode(tmp_path / "copy"))]
    with script.open("rb") as file:
        held(*fields, script=file.fileno())._spool_script()
        held(fields[0], script=file.fileno())._spool_script()
    held(*fields)._spool_script()
    assert (tmp_path / "copy").read_bytes() == script.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "script"]


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
