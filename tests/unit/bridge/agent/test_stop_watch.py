"""Seeing that another process was stopped, on real processes."""

import os
import select
import signal
import subprocess

import pytest

from bridge import kernel
from bridge.agent.stop_watch import StopWatch, watch_switches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may watch others")
HOLDS_OUT = "trap '' USR1; echo on; while :; do read line; done"


@pytest.fixture
def process():
    """Start a process that waits and bears USR1."""
    made = []

    def process():
        argv = ["bash", "-c", HOLDS_OUT]
        made.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        made[-1].stdout.readline()
        return made[-1].pid

    yield process
    for each in made:
        each.kill()
        each.communicate()


@pytest.fixture
def watch():
    """Watch a process."""
    folders = []

    def watch(pid, witness=0):
        folders.append(kernel.open_process(pid))
        return StopWatch(watch_switches(pid), folders[-1], b"%d" % witness)

    yield watch
    for folder in folders:
        os.close(folder)


def wait_for_stop(watched):
    poll = select.poll()
    poll.register(watched.descriptor, select.POLLIN)
    while not watched.saw_stop():
        assert poll.poll(10_000), "nothing was told"


def test_each_stop_is_told_once_however_many_other_signals_came(process, watch):
    pid = process()
    watched = watch(pid)
    for _ in range(600):  # more than its memory holds
        os.kill(pid, signal.SIGUSR1)
    assert not watched.saw_stop()
    for _ in range(2):
        os.kill(pid, signal.SIGSTOP)
        wait_for_stop(watched)
        assert not watched.saw_stop()
        os.kill(pid, signal.SIGCONT)
        watched.saw_life()


def test_the_witness_tells_whether_the_group_was_stopped(process, watch):
    pid, witness = process(), process()
    watched = watch(pid, witness)
    os.kill(pid, signal.SIGSTOP)
    wait_for_stop(watched)
    assert not watched.is_group_stopped()
    os.kill(witness, signal.SIGSTOP)
    assert watched.is_group_stopped()


def test_an_ended_process_is_not_stopped(watch):
    ended = subprocess.Popen(["sleep", "600"])
    watched = watch(ended.pid, witness=ended.pid)
    ended.kill()
    ended.wait()
    assert not watched.saw_stop()
    assert not watched.is_group_stopped()
