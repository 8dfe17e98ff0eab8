"""Passes must leave most of the node to jobs and hooks."""

import os

import pytest

from bridge import command
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


def test_a_command_that_stands_aside_has_low_priority_and_the_spare_cpus_only() -> None:
    look = ["sh", "-c", "nice; taskset -cp $$"]

    said = command.run(publication._aside(look), timeout_s=10).stdout.splitlines()

    assert said[0] == str(os.getpriority(os.PRIO_PROCESS, 0) + 10)
    last = publication._spare_cpus()[-1]
    assert said[1].rpartition(": ")[2].replace("-", ",").split(",")[-1] == str(last)
