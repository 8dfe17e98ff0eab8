"""What a child of sbridge-run would have inherited beside ids, limits, signals and cgroups.

Rule: each attribute is read from sbridge-run and set only where it is another one than the
agent's own children have; what cannot be set stays as it is.
"""

import contextlib
import ctypes
import os
import re
from pathlib import Path

from bridge import kernel

_FILES = ("oom_score_adj", "coredump_filter", "timerslack_ns")
_OF_A_PROCESS = 1  # ioprio_get(2): IOPRIO_WHO_PROCESS
_UNCHANGED = -1
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


class Inheritance:
    """What only a process itself can set: its personality(2) and its memory policy."""

    def __init__(self, caller: int) -> None:
        """Read them; `caller` is the /proc folder of sbridge-run."""
        self._personality = _personality(caller)
        self._policy = memory_policy(_first_line(caller, "numa_maps"))

    def take(self) -> None:
        """Have them from now on; in the process that becomes the script, whose cgroups it has."""
        if self._personality not in (_UNCHANGED, _libc.personality(ctypes.c_ulong(0xFFFFFFFF))):
            _libc.personality(ctypes.c_ulong(self._personality))
        mode, nodes = self._policy
        if mode:
            mask = nodes.to_bytes(_MOST_NODES // 8, "little")
            _libc.syscall(_SET_MEMPOLICY, mode, mask, ctypes.c_ulong(_MOST_NODES + 1))


def hand_on(caller: int, caller_pid: int, pid: int) -> None:
    """Give process `pid`, a child, what one of the process `caller_pid` would have."""
    _hand_on_scheduling(caller_pid, pid)
    priority = _libc.syscall(_IOPRIO_GET, _OF_A_PROCESS, caller_pid)
    if priority not in (-1, _libc.syscall(_IOPRIO_GET, _OF_A_PROCESS, pid)):
        _libc.syscall(_IOPRIO_SET, _OF_A_PROCESS, pid, priority)
    for name in _FILES:
        with contextlib.suppress(OSError):
            value = kernel.read(caller, name)
            file = Path(f"/proc/{pid}/{name}")
            if file.read_bytes() != value:
                file.write_bytes(_as_it_is_written(name, value))


def _hand_on_scheduling(caller_pid: int, pid: int) -> None:
    """Hand on SCHED_BATCH and the like; a realtime policy may have no room in the cgroup."""
    with contextlib.suppress(OSError):
        policy = os.sched_getscheduler(caller_pid)
        if policy != os.sched_getscheduler(pid):
            os.sched_setscheduler(pid, policy, os.sched_getparam(caller_pid))


def _as_it_is_written(name: str, value: bytes) -> bytes:
    """Return a value as the kernel takes it: it shows core dumps' filter without its 0x."""
    return b"0x" + value if name == "coredump_filter" else value


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


def _personality(caller: int) -> int:
    try:
        return int(kernel.read(caller, "personality"), 16)
    except (OSError, ValueError):
        return _UNCHANGED


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
