"""What the agent refuses before any sandbox is touched."""

import os
import socket
from types import SimpleNamespace

import pytest

from bridge import wire
from bridge.agent.budget import Budget, Purse
from bridge.agent.server import Server, _listen


def test_a_socket_is_replaced_without_a_gap(tmp_path):
    address = tmp_path / "node" / "agent.sock"
    first = _listen(address)
    before = os.stat(address).st_ino
    second = _listen(address)
    assert os.stat(address).st_ino != before
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("uid", "budget", "payload", "kind", "text"),
    [
        (7, Budget(), b"enter\0no equals sign", "failed", "without '='"),
        (7, Budget(1, 1), b"enter\0a=b", "busy", "fill this node's agent"),
    ],
)
def test_a_step_whose_message_is_not_taken_is_told_why(uid, budget, payload, kind, text):
    ours, theirs = socket.socketpair()
    server = object.__new__(Server)
    server._log = SimpleNamespace(warning=lambda *args, **facts: None)
    with theirs:
        theirs.sendall(len(payload).to_bytes(4, "big") + payload)
        server._answer(ours, Purse(budget, uid))
        answer, _ = wire.receive(theirs)
    assert answer is not None
    assert answer.kind == kind
    assert text in answer.text("text")


def test_a_hook_whose_message_is_not_taken_asks_again_instead_of_draining():
    ours, theirs = socket.socketpair()
    server = object.__new__(Server)
    server._log = SimpleNamespace(warning=lambda *args, **facts: None)
    with theirs:
        theirs.sendall(b"\0\0\0\1")
        theirs.shutdown(socket.SHUT_WR)
        server._answer(ours, Purse(Budget(), 0))
        assert wire.receive(theirs) == (None, [])
