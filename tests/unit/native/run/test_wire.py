"""Messages that are none, that come in pieces, or with descriptors that nobody expects."""

import os
import random

import pytest

from bridge import wire
from tests.unit.native.run.played_agent import descriptors_of, ended, wait_for, witness_of

REFUSAL = ("failed", ("text", b"no"), ("exit_code", b"3"))
MOST = 7 * 1024 * 1024


def payload(data):
    return len(data).to_bytes(4, "big") + data


BROKEN = {
    "a header that is cut short": b"\0\0",
    "a payload that is cut short": b"\0\0\0\x09waiting",
    "a payload above the limit": (MOST + 1).to_bytes(4, "big") + b"x" * 100,
    "the largest length": b"\xff\xff\xff\xff",
    "nothing": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_who_sends_what_is_no_message_is_taken_for_gone(checked, data):
    step = checked.start("/bin/sh")
    line = checked.accept()
    line.hear()
    line.send(data)
    line.end()
    line = checked.accept()
    line.hear()
    line.say(*REFUSAL)
    gone = "sbridge: the sbridge agent of this node went away; waiting for its return\n"
    assert ended(step) == (3, gone + "sbridge: no\n")


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_keeper_that_sends_what_is_no_message_has_ended(checked, data):
    step, line, _ = checked.enter()
    line.send(data)
    line.end()
    line = checked.accept()
    assert line.hear().kind == "why"
    line.send(data)
    line.end()
    code, said = ended(step)
    assert (code, said.endswith("was killed from outside\n")) == (1, True)


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"", 1, "unexpected answer '' of the agent"),
        (b"\0", 1, "unexpected answer '' of the agent"),
        (b"\0\0\0", 1, "unexpected answer '' of the agent"),
        (b"failed\0", 1, "unexpected answer 'failed' of the agent"),
        (b"failed\0text", 1, "unexpected answer 'failed' of the agent"),
        (b"failed\0text=", 1, "unexpected answer 'failed' of the agent"),
        (b"failed\0texts=a\0tex=b\0=c\0text=d", 1, "d"),
        (b"failed\0text=a\0exit_code=3\0", 3, "a"),
        (b"failed\0text=a=b\0exit_code", 1, "a=b"),
        (b"failed\0exit_code=99999999999999999999\0text=a", None, "a"),
        (b"failed\0text=%s%n%d", 1, "%s%n%d"),
        (b"text=a", 1, "unexpected answer 'text=a' of the agent"),
    ],
)
def test_fields_that_are_missing_or_odd_are_borne(checked, data, code, said):
    step = checked.start("/bin/sh")
    line = checked.accept()
    line.hear()
    line.say("waiting")
    line.send(payload(data))
    ended_with, heard = ended(step)
    assert heard == f"sbridge: {said}\n"
    assert ended_with == code or (code is None and ended_with > 0)


def test_a_message_in_pieces_is_one(agent):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    line.say("waiting")
    for byte in payload(b"waiting\0text=pulling") + payload(b"failed\0text=no\0exit_code=3"):
        line.send(bytes([byte]))
    assert ended(step) == (3, "sbridge: pulling\nsbridge: no\n")


def test_messages_that_come_at_once_are_several(agent):
    step, line, _ = agent.enter()
    line.send(payload(b"warning\0text=a") + payload(b"warning\0text=b") + payload(b"warning"))
    line.say("exited", ("status", b"%d" % (4 << 8)))
    assert ended(step) == (4, "sbridge: a\nsbridge: b\n")


def test_the_longest_message_arrives(agent):
    step, line, _ = agent.enter(stderr=None if os.environ.get("SHOW") else -3)
    text = b"x" * (MOST - len(b"warning\0text="))
    line.say("warning", ("text", text))
    line.say("exited", ("status", b"0"))
    assert step.wait(20) == 0


@pytest.fixture
def files():
    """Give descriptors that are nobody's business."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    yield opened
    wire.close_all(opened)


def test_descriptors_that_nobody_expects_are_closed(agent, files):
    step, line, _ = agent.enter()
    before = descriptors_of(step.pid)
    whole = payload(b"warning\0text=")
    for round_ in range(20):
        line.say("warning", ("text", b"%d" % round_), descriptors=files[: round_ % 5])
        line.send(whole[:2], files[:2])
        line.send(whole[2:], files)
        line.send(whole[:-1], files[:1])
        line.send(whole[-1:], files)
    line.say("warning", ("text", b"done"))
    said = b"".join(step.stderr.readline() for _ in range(21))
    assert said.endswith(b"sbridge: done\n")
    wait_for(lambda: descriptors_of(step.pid) == before)


def test_descriptors_of_a_broken_message_are_closed(checked, files):
    step = checked.start("/bin/sh")
    line = checked.accept()
    line.hear()
    witness_of(step)
    before = len(descriptors_of(step.pid))
    for data in (b"\0\0", b"\0\0\0\x09waiting", b"\xff\xff\xff\xff"):
        line.send(data, files)
        line.end()
        line = checked.accept()
        line.hear()
    witness_of(step)
    wait_for(lambda: len(descriptors_of(step.pid)) == before)


def test_none_of_them_reaches_what_it_becomes(agent, files):
    step = agent.start("/bin/ls", "/proc/self/fd")
    line = agent.accept()
    line.hear()
    line.say("waiting", descriptors=files)
    line.say("exec", descriptors=files)
    out, _ = step.communicate(timeout=20)
    assert out.split() == [b"0", b"1", b"2", b"3"]  # ls has the folder open itself


def test_garbage_breaks_nothing(checked):
    """The sanitizers watch."""
    dice = random.Random(11)
    words = [b"waiting", b"text=", b"status=", b"lost=1", b"exit_code=", b"\0", b"\0\0", b"=", b"9"]
    for _ in range(40):
        step, line, _ = checked.enter()
        for _ in range(20):
            data = b"".join(dice.choices(words, k=dice.randrange(9)))
            line.send(payload(b"warning" + data + dice.randbytes(dice.randrange(9))))
        line.say("exited", ("status", b"%d" % (7 << 8)))
        assert ended(step)[0] == 7


def test_garbage_instead_of_an_answer_ends_it(checked):
    dice = random.Random(12)
    for _ in range(40):
        step = checked.start("/bin/sh")
        line = checked.accept()
        line.hear()
        line.send(payload(b"?" + dice.randbytes(dice.randrange(40))))
        code, said = ended(step)
        assert (code, said.startswith("sbridge: ")) == (1, True)
