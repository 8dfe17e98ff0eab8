"""What the agent refuses before any sandbox is touched."""

import os

import pytest

from bridge import wire
from bridge.agent.server import RefusedError, _check_descriptors


def asking(*numbers, script=False):
    fields = [("fd", number) for number in numbers]
    return wire.Message("enter", fields + ([("script", b"1")] if script else []))


@pytest.mark.parametrize(
    "message",
    [
        asking(b"0", b"1", b"600"),
        asking(b"0", b"1", b"-1"),
        asking(b"0", b"1", b"x"),
        asking(b"0", b"1", b"1"),
        asking(b"0", b"1"),
        asking(b"0", b"1", script=False),
        asking(b"0", b"1", b"2", script=True),
    ],
)
def test_descriptor_numbers_that_do_not_fit_are_refused(message):
    with pytest.raises(RefusedError):
        _check_descriptors(message, [10, 11, 12])


def test_fitting_descriptor_numbers_pass():
    _check_descriptors(asking(b"0", b"1", b"7"), [10, 11, 12])
    _check_descriptors(asking(b"0", b"1", script=True), [10, 11, 12])


def test_a_socket_is_replaced_without_a_gap(tmp_path):
    from bridge.agent.server import _listen

    address = tmp_path / "node" / "agent.sock"
    first = _listen(address)
    before = os.stat(address).st_ino
    second = _listen(address)
    assert os.stat(address).st_ino != before
    first.close()
    second.close()
