"""What a child of sbridge-run would have inherited, but hardly any has otherwise than the agent's.

Scheduling and memory policies, personality and the like: each is read from sbridge-run and set
only where it is another one than the agent's own children have; what cannot be set stays.
"""

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge import kernel, wire

_FILES = ("oom_score_adj", "coredump_filter", "timerslack_ns")
_OF_A_PROCESS = 1  # ioprio_get(2): IOPRIO_WHO_PROCESS
# Other names beside the files'.
_SCHEDULING, _IO_PRIORITY, _MEMORY, _PERSONALITY = "scheduling", "io", "memory", "personality"
# ioprio_set, ioprio_get, set_mempolicy
_GENERIC = (30, 31, 237)
_CALLS = {"x86_64": (251, 252, 238), "aarch64": _GENERIC, "riscv64": _GENERIC}
_IOPRIO_SET, _IOPRIO_GET, _SET_MEMPOLICY = _CALLS.get(os.uname().machine, (-1, -1, -1))

# As mpol_to_str() of the kernel writes them into numa_maps: "7f0c… bind=static:0-1 file=…".
_POLICY = re.compile(
    rb"[0-9a-f]+ (default|prefer \(many\)|prefer|bind|interleave|local|weighted interleave)"
    rb"(?:=(static|relative))?(?:\|?=?balancing)?(?::([\d,-]+))?(?: |$)"
)
_MODES = (
    *(b"default", b"prefer", b"bind", b"interleave", b"local"),
    *(b"prefer (many)", b"weighted interleave"),
)
_MODE_FLAGS = {None: 0, b"static": 1 << 15, b"relative": 1 << 14}
_MOST_NODES = 1024
_ONE_LINE_BYTES = 512

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Rarities:
    """What a process has otherwise than the agent, by name, written as text."""

    values: Mapping[str, bytes]

    @classmethod
    def of(cls, pid: int, process: int) -> "Rarities":
        """Read them of the process `pid`, whose /proc folder is `process`."""
        usual = _of_the_agent()
        values = _read(pid, process)
        return cls({name: value for name, value in values.items() if usual.get(name) != value})

    def orders(self) -> wire.Fields:
        """Return what the keeper is told of them: mostly nothing."""
        return [("rarity", name.encode() + b"=" + value) for name, value in self.values.items()]

    @classmethod
    def told(cls, message: wire.Message) -> "Rarities":
        """Return what `orders` made."""
        pairs = (each.partition(b"=") for each in message.every("rarity"))
        return cls({name.decode(): value for name, _, value in pairs})

    def hand_on(self, pid: int) -> None:
        """Give them to process `pid`, a child."""
        for name in _FILES:
            if name in self.values:
                with contextlib.suppress(OSError):
                    Path(f"/proc/{pid}/{name}").write_bytes(self.values[name])
        if _SCHEDULING in self.values:
            policy, priority = map(int, self.values[_SCHEDULING].split())
            with contextlib.suppress(OSError):  # a realtime policy may have no room in the cgroup
                os.sched_setscheduler(pid, policy, os.sched_param(priority))
        if _IO_PRIORITY in self.values:
            _libc.syscall(_IOPRIO_SET, _OF_A_PROCESS, pid, int(self.values[_IO_PRIORITY]))

    def take(self) -> None:
        """Have what only a process itself can set; in the script's, whose cgroups it has."""
        if _PERSONALITY in self.values:
            _libc.personality(ctypes.c_ulong(int(self.values[_PERSONALITY], 16)))
        if _MEMORY in self.values:
            mode, nodes = map(int, self.values[_MEMORY].split())
            mask = nodes.to_bytes(_MOST_NODES // 8, "little")
            _libc.syscall(_SET_MEMPOLICY, mode, mask, ctypes.c_ulong(_MOST_NODES + 1))


@functools.cache
def _of_the_agent() -> dict[str, bytes]:
    own = kernel.open_process(os.getpid())
    try:
        return _read(os.getpid(), own)
    finally:
        os.close(own)


def _read(pid: int, process: int) -> dict[str, bytes]:
    values = {name: _first_line(process, name) for name in (*_FILES, _PERSONALITY)}
    values["coredump_filter"] = b"0x" + values["coredump_filter"]  # as the kernel takes it
    with contextlib.suppress(OSError):
        policy, parameter = os.sched_getscheduler(pid), os.sched_getparam(pid)
        values[_SCHEDULING] = b"%d %d" % (policy, parameter.sched_priority)
    values[_IO_PRIORITY] = b"%d" % _libc.syscall(_IOPRIO_GET, _OF_A_PROCESS, pid)
    values[_MEMORY] = b"%d %d" % memory_policy(_first_line(process, "numa_maps"))
    return values


def memory_policy(line: bytes) -> tuple[int, int]:
    """Read a line of numa_maps: what set_mempolicy(2) takes as mode, and the nodes as a mask.

    (0, 0) is the usual policy, and one that is not known here.
    """
    match = _POLICY.match(line)
    if not match:
        return 0, 0
    nodes = 0
    for low, _, high in (span.partition(b"-") for span in (match[3] or b"").split(b",") if span):
        for node in range(int(low), min(int(high or low), _MOST_NODES - 1) + 1):
            nodes |= 1 << node
    return _MODES.index(match[1]) | _MODE_FLAGS[match[2]], nodes


def _first_line(caller: int, name: str) -> bytes:
    """Return the first line of a file of /proc; empty where the kernel has none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=caller)
        try:
            return os.read(descriptor, _ONE_LINE_BYTES).partition(b"\n")[0]
        finally:
            os.close(descriptor)
    except OSError:
        return b""
