"""What a keeper is told of sbridge-run, of a real process."""

import os
import resource
import signal
import subprocess

import pytest

from bridge import kernel, wire
from bridge.agent.heritage import Heritage
from bridge.agent.rarities import Rarities


@pytest.fixture
def heritage():
    """Read what a process hands down that differs from this one in everything."""
    command = "umask 027; ulimit -n 77; trap '' USR1; exec nice -n 5 sh -c 'echo; read -r line'"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["sh", "-c", command], **pipes) as process:
        process.stdout.readline()
        folder = kernel.open_process(process.pid)
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield Heritage.of(process.pid, folder)
        os.close(folder)
        process.stdin.close()


def test_it_is_what_a_child_would_have_had(heritage):
    assert heritage.owner.uids == (os.getuid(),) * 4
    assert heritage.owner.umask == 0o027
    assert signal.SIGUSR1 in heritage.owner.ignored
    assert signal.SIGUSR2 not in heritage.owner.ignored
    assert heritage.limits[resource.RLIMIT_NOFILE] == (77, 77)
    assert heritage.nice == os.getpriority(os.PRIO_PROCESS, 0) + 5
    assert heritage.cpus == {min(os.sched_getaffinity(0))}


def test_the_keeper_is_told_all_of_it(heritage):
    assert Heritage.told(wire.Message("enter", heritage.orders())) == heritage


def test_a_process_without_groups_or_ignored_signals_is_told_so(heritage):
    owner = kernel.Identity((1,) * 4, (2,) * 4, (), 0, frozenset(), frozenset())
    plain = Heritage(owner, {}, -20, heritage.cpus, Rarities({}))
    assert Heritage.told(wire.Message("enter", plain.orders())) == plain
