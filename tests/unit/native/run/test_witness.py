"""Signals: which ones are passed on, and whether the whole process group got them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.native.run.played_agent import (
    PATIENCE_S,
    descriptors_of,
    ended,
    ignoring,
    is_gone,
    status_of,
    wait_for,
    witness_of,
)

UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
CATCHABLE = sorted(signal.valid_signals() - UNCATCHABLE)
SOME = [
    signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGSEGV, signal.SIGTSTP, signal.SIGCONT,
    signal.SIGWINCH, signal.SIGURG, signal.SIGPIPE, signal.SIGRTMIN, signal.SIGRTMAX,
]  # fmt: skip
END = ("exited", ("status", b"%d" % (3 << 8)))


def test_go_names_the_witness_which_is_a_child(agent):
    step, _, witness = agent.enter()
    assert status_of(witness, "PPid") == str(step.pid)
    assert status_of(witness, "Name") == "sbridge-run"
    assert os.getpgid(witness) == os.getpgid(step.pid) == step.pid


@pytest.mark.parametrize("number", SOME, ids=lambda number: signal.Signals(number).name)
def test_a_signal_for_the_script_alone_is_told_from_one_for_the_group(agent, number):
    step, line, _ = agent.enter()
    for is_for_group in (False, True, True, False):
        (os.killpg if is_for_group else os.kill)(step.pid, number)
        assert line.hear_signal() == (number, is_for_group)
    line.say(*END)
    assert ended(step) == (3, "")


def test_every_signal_that_can_be_caught_is_passed_on(agent):
    step, line, _ = agent.enter()
    for number in CATCHABLE:
        os.killpg(step.pid, number)
        assert line.hear_signal() == (number, True)
    line.say(*END)
    assert ended(step) == (3, "")


def test_real_time_signals_are_counted(agent):
    step, line, _ = agent.enter()
    for _ in range(5):
        os.killpg(step.pid, signal.SIGRTMIN + 1)
    for _ in range(5):
        assert line.hear_signal() == (signal.SIGRTMIN + 1, True)


def test_signals_keep_their_order_and_kind_when_they_come_at_once(agent):
    step, line, _ = agent.enter()
    os.kill(step.pid, signal.SIGSTOP)
    wait_for(lambda: status_of(step.pid, "State").startswith("T"))
    os.kill(step.pid, signal.SIGUSR2)
    os.killpg(step.pid, signal.SIGUSR1)
    os.kill(step.pid, signal.SIGRTMAX)
    os.killpg(step.pid, signal.SIGCONT)
    alone, grouped = {signal.SIGUSR2, signal.SIGRTMAX}, {signal.SIGUSR1, signal.SIGCONT}
    told: dict[int, set[str]] = {}
    while set(told) < alone | grouped or {"script"} in (told[number] for number in grouped):
        number, whom = line.hear_part()
        told.setdefault(number, set()).add(whom)
    assert [told[number] for number in alone] == [{"script"}] * 2
    assert all(told[number] in ({"group"}, {"script", "others"}) for number in grouped)


@pytest.mark.parametrize("is_for_group", [True, False])
def test_a_stopped_step_goes_on(agent, is_for_group):
    step, line, _ = agent.enter()
    send = os.killpg if is_for_group else os.kill
    send(step.pid, signal.SIGSTOP)
    wait_for(lambda: status_of(step.pid, "State").startswith("T"))
    line.say("warning", ("text", b"slept"))
    send(step.pid, signal.SIGCONT)
    assert line.hear_signal() == (signal.SIGCONT, is_for_group)
    line.say(*END)
    assert ended(step) == (3, "sbridge: slept\n")


def test_a_stop_while_it_waits_is_slept_through(agent):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    os.kill(step.pid, signal.SIGSTOP)
    wait_for(lambda: status_of(step.pid, "State").startswith("T"))
    line.say("entered")
    os.kill(step.pid, signal.SIGCONT)
    assert line.hear().kind == "go"
    line.say(*END)
    assert ended(step) == (3, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_before_it_enters_ends_it(agent, number, send):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    send(step.pid, number)
    assert ended(step) == (-number, "")
    assert line.socket.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGWINCH, signal.SIGHUP, signal.SIGCONT])
def test_what_it_let_pass_while_it_waited_counts_for_nothing_later(agent, number):
    """The witness saw it for the group; one for the script alone must not be taken for that."""
    step = agent.start("/bin/sh", before=ignoring(signal.SIGHUP))
    line = agent.accept()
    line.hear()
    witness = witness_of(step)
    os.killpg(step.pid, number)
    wait_for(lambda: int(status_of(witness, "ShdPnd"), 16) == 0)
    wait_for(lambda: status_of(witness, "State").startswith("S"))  # and has told of it
    line.say("entered")
    assert line.hear().kind == "go"
    os.kill(step.pid, number)
    assert line.hear_signal() == (number, False)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE])
def test_signals_that_were_ignored_before_are_passed_on(agent, number):
    """Where the script has them ignored, they are ignored there."""
    step, line, _ = agent.enter(before=ignoring(number))
    os.killpg(step.pid, number)
    assert line.hear_signal() == (number, True)


def test_a_signal_that_was_blocked_is_passed_on_all_the_same(agent):
    """Where the script has it blocked, it waits there."""

    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN})

    step = agent.start("/bin/sh", before=block)
    line = agent.accept()
    line.hear()
    os.kill(step.pid, signal.SIGUSR1)
    os.kill(step.pid, signal.SIGRTMIN)
    os.kill(step.pid, signal.SIGRTMIN)
    line.say("entered")
    assert line.hear().kind == "go"
    heard = [line.hear_part() for _ in range(3)]
    assert heard == [(signal.SIGUSR1, "script"), *[(signal.SIGRTMIN, "script")] * 2]


def test_where_sigchld_was_ignored_all_goes_as_ever(agent):
    step, line, witness = agent.enter(before=ignoring(signal.SIGCHLD))
    for is_for_group in (True, False):
        (os.killpg if is_for_group else os.kill)(step.pid, signal.SIGUSR1)
        assert line.hear_signal() == (signal.SIGUSR1, is_for_group)
    line.say(*END)
    assert ended(step) == (3, "")
    assert is_gone(witness)


def test_a_signal_that_comes_too_late_does_not_hide_how_the_script_ended(agent):
    step, line, _ = agent.enter()
    os.kill(step.pid, signal.SIGSTOP)
    wait_for(lambda: status_of(step.pid, "State").startswith("T"))
    line.say(*END)
    line.end()
    os.kill(step.pid, signal.SIGUSR1)
    os.kill(step.pid, signal.SIGCONT)
    assert ended(step) == (3, "")


def test_the_witness_holds_nothing_of_the_step(agent):
    """Who reads the step's output must see its end with the script's."""
    step, _, witness = agent.enter(close_fds=False, before=lambda: os.dup2(1, 9, inheritable=True))
    kinds = sorted(name.partition(":")[0] for name in descriptors_of(witness).values())
    assert kinds == ["anon_inode", "pipe"]  # the signals it sees, and where it tells of them
    held = {name for name in descriptors_of(witness).values() if name.startswith("pipe")}
    assert held.isdisjoint(os.readlink(f"/proc/{step.pid}/fd/{number}") for number in (1, 2, 9))


@pytest.mark.parametrize("phase", ["waiting", "entered"])
def test_the_witness_goes_when_the_step_is_killed(agent, phase):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    witness = witness_of(step)
    if phase == "entered":
        line.say("entered")
        assert int(line.hear().first("witness")) == witness
    step.kill()
    step.wait(PATIENCE_S)
    wait_for(lambda: is_gone(witness))


def test_the_witness_is_gone_before_the_step_ends(agent):
    """slurmstepd waits for a second when a step leaves a process behind."""
    for _ in range(10):
        step, line, witness = agent.enter()
        line.say(*END)
        assert step.wait(PATIENCE_S) == 3
        assert status_of(witness, "State") == ""


def test_without_its_witness_it_still_passes_signals_on(agent):
    step, line, witness = agent.enter()
    os.kill(witness, signal.SIGKILL)
    wait_for(lambda: is_gone(witness))
    for _ in range(3):
        os.killpg(step.pid, signal.SIGUSR1)
        assert line.hear_signal() == (signal.SIGUSR1, False)
    line.say(*END)
    assert ended(step) == (3, "")


def test_a_witness_that_is_stopped_holds_nothing_up_for_long(agent):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    children = Path(f"/proc/{step.pid}/task/{step.pid}/children")
    witness = int(wait_for(lambda: children.read_text().strip()))
    os.kill(witness, signal.SIGSTOP)
    began = time.monotonic()
    line.say("entered")
    assert line.hear().kind == "go"
    assert time.monotonic() - began < 5
    line.say(*END)
    assert ended(step) == (3, "")


SLOWLY = """import os, sys, time
step, witness = map(int, sys.argv[1:3])
os.kill(step, 10)
time.sleep(float(sys.argv[3]))
os.kill(witness, 10)
"""


@pytest.mark.parametrize(("pause", "is_one_act"), [("0.2", True), ("1.5", False)])
def test_the_script_does_not_wait_for_a_sender_that_is_slow_to_signal_the_others(
    agent, pause, is_one_act
):
    """As slurmstepd on a busy node, which signals one process after the other."""
    step, line, witness = agent.enter()
    argv = [sys.executable, "-c", SLOWLY, str(step.pid), str(witness), pause]
    with subprocess.Popen(argv):
        assert line.hear_part() == (signal.SIGUSR1, "script")
        if is_one_act:
            assert line.hear_part() == (signal.SIGUSR1, "others")
    line.say(*END)
    assert ended(step) == (3, "")


def test_a_witness_that_does_not_get_to_run_holds_no_signal_up(agent):
    """The node may be busy; what it is going to see is known to be for the group."""
    step, line, witness = agent.enter()
    os.kill(witness, signal.SIGSTOP)
    wait_for(lambda: status_of(witness, "State").startswith("T"))
    os.killpg(step.pid, signal.SIGUSR1)
    assert line.hear_part() == (signal.SIGUSR1, "group")
    for _ in range(3):
        os.killpg(step.pid, signal.SIGRTMIN)
        assert line.hear_part() == (signal.SIGRTMIN, "group")
    os.kill(witness, signal.SIGCONT)
    wait_for(lambda: int(status_of(witness, "ShdPnd"), 16) == 0)
    wait_for(lambda: status_of(witness, "State").startswith("S"))  # and has told of it
    for number in (signal.SIGUSR1, signal.SIGRTMIN):
        os.kill(step.pid, number)
        assert line.hear_signal() == (number, False)
    line.say(*END)
    assert ended(step) == (3, "")


def test_a_signal_for_the_script_alone_is_passed_on_at_once(agent):
    """Where another follows that kills, as of a second Ctrl-C at srun, the first one counts."""
    step, line, _ = agent.enter()
    delays = []
    for _ in range(20):
        began = time.monotonic()
        os.kill(step.pid, signal.SIGINT)
        assert line.hear_part() == (signal.SIGINT, "script")
        delays.append(time.monotonic() - began)
    assert min(delays) < 0.003
    line.say(*END)
    assert ended(step) == (3, "")
