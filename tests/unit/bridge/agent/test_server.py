"""What the agent refuses before any sandbox is touched."""

import os
import socket
from types import SimpleNamespace

import pytest

from bridge import wire
from bridge.agent.budget import Budget, Purse
from bridge.agent.job import JobRun, Request, State
from bridge.agent.server import RefusedError, Server, _check_descriptors, _file_to_run
from bridge.job_spool import JobSpool, RunId


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


@pytest.mark.parametrize(
    ("word", "step", "file"),
    [
        ("script=%2Fx.py", [("idle", b"1")], [("file", b"/x.py")]),
        ("script=%2Fx.py", [], []),
        ("image=a", [("idle", b"1")], []),
    ],
)
def test_the_named_script_runs_only_when_the_batch_script_is_idle(tmp_path, word, step, file):
    variables = {"SLURM_JOB_COMMENT": f"sbridge1?{word}"}
    job = JobRun(Request(RunId(1, 0), 1, 1, variables), JobSpool(tmp_path), State())
    assert _file_to_run(wire.Message("enter", step), job) == file


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
