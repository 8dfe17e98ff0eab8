"""What sbridge-run says, and to whom: a stderr that is closed, full or read by nobody."""

import os
import signal

import pytest

from tests.unit.native.run.played_agent import PATIENCE_S, ignoring


@pytest.fixture
def nobody_reads():
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


@pytest.fixture
def full():
    with open("/dev/full", "wb") as device:
        yield device.fileno()


@pytest.fixture
def full_pipe():
    """Give a pipe that takes nothing more and says so."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    try:
        while True:
            os.write(theirs, b"x" * 4096)
    except BlockingIOError:
        pass
    yield theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("stderr", ["nobody_reads", "full", "full_pipe"])
@pytest.mark.parametrize("ignored", [(), (signal.SIGPIPE,)])
def test_a_stderr_that_takes_nothing_changes_nothing(agent, request, stderr, ignored):
    where = request.getfixturevalue(stderr)
    step, line, _ = agent.enter(stderr=where, before=ignoring(*ignored))
    line.say("warning", ("text", b"x" * 100_000))
    line.say("warning", ("text", b"y"))
    line.say("exited", ("status", b"%d" % (5 << 8)))
    assert step.wait(PATIENCE_S) == 5


@pytest.mark.parametrize("stderr", ["nobody_reads", "full", "full_pipe"])
def test_who_cannot_say_why_ends_all_the_same(agent, request, stderr):
    step = agent.start("/bin/sh", stderr=request.getfixturevalue(stderr))
    line = agent.accept()
    line.hear()
    line.say("failed", ("text", b"no"), ("exit_code", b"3"))
    assert step.wait(PATIENCE_S) == 3


def test_a_line_goes_out_in_one_piece(agent):
    """Lines of many tasks must not mix."""
    ours, theirs = os.pipe2(os.O_DIRECT)  # each read(2) returns what one write(2) wrote
    step = agent.start("/bin/sh", stderr=theirs)
    os.close(theirs)
    line = agent.accept()
    line.hear()
    line.say("waiting", ("text", b"pulling " + b"x" * 3000))
    assert os.read(ours, 1 << 16) == b"sbridge: pulling " + b"x" * 3000 + b"\n"
    line.say("failed", ("text", b"no"), ("exit_code", b"3"))
    assert step.wait(PATIENCE_S) == 3
    os.close(ours)
