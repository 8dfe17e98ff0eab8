"""What the script's process gets of the attributes of sbridge-run's."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import kernel, wire
from bridge.agent import rarities
from bridge.agent.rarities import Rarities, memory_policy

BIND, INTERLEAVE, STATIC = 2, 3, 1 << 15
NO_RANDOM_ADDRESSES = 0x0040000
FILES = ("oom_score_adj", "coredump_filter", "timerslack_ns", "personality")
# Does to itself what a child would inherit, says so, and waits.
UNUSUAL = f"""
import ctypes, os, sys
from bridge.agent import rarities
libc = ctypes.CDLL(None)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
assert libc.syscall(rarities._IOPRIO_SET, 1, 0, 2 << 13 | 7) == 0
assert libc.personality({NO_RANDOM_ADDRESSES}) == 0
nodes = (1).to_bytes(128, "little")
assert libc.syscall(rarities._SET_MEMPOLICY, {BIND}, nodes, ctypes.c_ulong(1025)) == 0
for name, value in (("oom_score_adj", "321"), ("coredump_filter", "0x11"), ("timerslack_ns", "7")):
    open("/proc/self/" + name, "w").write(value)
# So that this program's memory is new, and of this policy.
os.execv("/bin/sh", ["sh", "-c", "echo ready; read end"])
"""


@pytest.fixture
def caller():
    """A process with unusual attributes: its pid."""
    folder = Path(__file__).resolve().parents[4]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", UNUSUAL], cwd=folder, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def seen_of(pid):
    """Return the attributes of a process; of the memory policy what its program's files have."""
    process = kernel.open_process(pid)
    try:
        files = {name: kernel.read(process, name) for name in FILES}
        policy = memory_policy(rarities._first_line(process, "numa_maps"))
    finally:
        os.close(process)
    priority = ctypes.CDLL(None).syscall(rarities._IOPRIO_GET, 1, pid)
    return {**files, "policy": policy, "priority": priority, "class": os.sched_getscheduler(pid)}


def child_of(caller):
    """Return the pid of a child that has taken what is `caller`'s, and waits."""
    process = kernel.open_process(caller)
    taken, tell = os.pipe()
    permission, permit = os.pipe()
    read = Rarities.of(caller, process)
    told = Rarities.told(wire.Message("enter", read.orders()))
    assert told == read
    pid = os.fork()
    if pid == 0:
        try:
            told.take()
            os.write(tell, b"!")
            os.read(permission, 1)  # an exec under way takes over what was there when it began
            os.execv("/bin/sleep", ["sleep", "60"])
        finally:
            os._exit(1)
    os.read(taken, 1)
    told.hand_on(pid)
    os.write(permit, b"!")
    os.close(tell)
    assert os.read(taken, 1) == b""  # it executed, or ended
    for descriptor in (process, taken, permission, permit):
        os.close(descriptor)
    return pid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: what others have is not told to users")
@pytest.mark.skipif(rarities._IOPRIO_SET < 0, reason="this processor's calls are not known")
def test_a_child_has_all_that_it_would_have_inherited(caller):
    wanted = seen_of(caller)
    assert wanted["oom_score_adj"] == b"321\n"
    assert wanted["policy"] == (BIND, 1)
    assert wanted["class"] == os.SCHED_BATCH
    assert wanted["priority"] == 2 << 13 | 7
    usual = seen_of(os.getpid())
    assert not [name for name in wanted if wanted[name] == usual[name]]
    child = child_of(caller)
    try:
        assert b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes()
        assert seen_of(child) == wanted
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_usual_process_has_none():
    process = kernel.open_process(os.getpid())
    assert Rarities.of(os.getpid(), process).orders() == []
    os.close(process)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (b"55d0 default file=/usr/bin/python3.11 mapped=2 N0=2", (0, 0)),
        (b"55d0 bind:0 anon=2", (BIND, 1)),
        (b"55d0 bind=static:0-1,4 anon=2", (BIND | STATIC, 0b10011)),
        (b"55d0 bind=static|balancing:1 anon=2", (BIND | STATIC, 2)),
        (b"55d0 interleave:0-3 stack anon=3", (INTERLEAVE, 15)),
        (b"55d0 prefer:2", (1, 4)),
        (b"55d0 prefer (many):1-2 x", (5, 6)),
        (b"55d0 local x", (4, 0)),
        (b"55d0 weighted interleave:0 x", (6, 1)),
        (b"55d0 something new:0 x", (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_memory_policies_are_read_as_the_kernel_writes_them(text, policy):
    assert memory_policy(text) == policy
