"""Passes must leave most of the node to jobs and hooks."""

import json
import os
import socket
import sys

import pytest

from bridge import command, wire
from bridge.agent import publication


@pytest.mark.parametrize(
    ("allowed", "spare"),
    [
        ({0}, [0]),
        ({0, 1}, [1]),
        (set(range(8)), [6, 7]),
        ({3, 5, 9}, [9]),
        (set(range(64)), list(range(48, 64))),
    ],
)
def test_passes_use_a_quarter_of_the_cpus_that_the_agent_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], spare: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed)

    assert publication._spare_cpus() == spare


def seen_by(argv: list[str]) -> tuple[int, list[int]]:
    """Return the niceness and the CPUs of a command."""
    code = "import os; print(os.nice(0), *sorted(os.sched_getaffinity(0)))"
    said = command.run([*argv, sys.executable, "-c", code], timeout_s=10).stdout
    niceness, *cpus = map(int, said.split())
    return niceness, cpus


def test_a_command_that_stands_aside_has_low_priority_and_the_spare_cpus_only() -> None:
    ours = os.nice(0)

    assert seen_by(publication._aside([])) == (ours + 10, publication._spare_cpus())
    assert seen_by([]) == (ours, sorted(os.sched_getaffinity(0)))


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not publication._AUTOGROUP.exists(),
    reason="the kernel lets root alone set it at any time, and need not have it",
)


@needs_root
def test_a_command_stands_aside_of_other_sessions_too() -> None:
    read = [sys.executable, "-c", f"print(open('{publication._AUTOGROUP}').read())"]

    assert "nice 10" in command.run(publication._aside(read), timeout_s=10).stdout
    assert "nice 0" in command.run(read, timeout_s=10).stdout


@needs_root
def test_a_pass_stands_aside_of_other_sessions_too() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        publication._stand_aside()
        os.write(writer, publication._AUTOGROUP.read_bytes())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as told:
        assert told.read().endswith("nice 10\n")


def test_a_pass_stands_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    lock = os.open(os.devnull, os.O_RDWR)
    spare = publication._spare_cpus()
    child = os.fork()
    if not child:
        os.setsid()  # as a child of the forge
        monkeypatch.setattr(publication.kernel, "renounce_privileges", lambda *_: None)
        look = {"look": lambda _plan: {"cpus": sorted(os.sched_getaffinity(0)), "nice": os.nice(0)}}
        monkeypatch.setattr(publication, "_PASSES", look)
        fields = [("pass", b"look"), ("plan", b"{}"), ("uid", b"0"), ("gid", b"0")]
        publication.serve(wire.Message("publish", fields), [theirs.fileno(), lock])
        os._exit(0)
    answer, _ = wire.receive(ours)
    os.waitpid(child, 0)
    os.close(lock)
    ours.close()
    theirs.close()

    assert answer is not None
    assert json.loads(answer.first("result")) == {"cpus": spare, "nice": os.nice(0) + 10}
