"""Seeing that sbridge-run was stopped: SIGSTOP cannot be caught, and only its parent is told.

The kernel counts how often sbridge-run gives up its CPU. That happens when a signal stops it,
and hardly otherwise, since it sleeps; each time this says so (perf_event_open(2)), and what
state it then has tells the rest. It is not traced, and nothing is looked at now and then.
"""

import ctypes
import mmap
import os
import signal
import struct
import time

from bridge import kernel

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_TYPE_SOFTWARE = 1
_CONTEXT_SWITCHES = 3
_EVERY_ONE = 1
_ATTRIBUTES = struct.Struct("=IIQQQQQI60x")  # perf_event_attr, up to its wakeup_events; 112 bytes
_FLAG_CLOEXEC = 8
_WITNESS_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


class StopWatch:
    """Whether a process is stopped, and its witness with it; `descriptor` is to be polled."""

    def __init__(self, switches: int, process: int, witness: bytes) -> None:
        """Watch a process, whose /proc folder is `process`, by its `watch_switches`.

        `witness` is a pid. Raises OSError when the kernel does not offer it.
        """
        self._process = process
        self._witness = int(witness) if witness.isdigit() else 0
        self._is_stopped = False
        self.descriptor = switches
        # Only a mapped event can be polled; read-only, it never is full.
        pages = 2 * mmap.PAGESIZE
        self._events = mmap.mmap(self.descriptor, pages, mmap.MAP_SHARED, mmap.PROT_READ)

    def close(self) -> None:
        """Look no more; the descriptor stays open."""
        self._events.close()

    def saw_stop(self) -> bool:
        """Whether the process was stopped since the last call."""
        before, self._is_stopped = self._is_stopped, _is_stopped(self._process)
        return self._is_stopped and not before

    def saw_life(self) -> None:
        """Note that the process spoke: it was not stopped then, whatever it is now."""
        self._is_stopped = False

    def is_group_stopped(self) -> bool:
        """Whether the witness was stopped as well, now or within a few milliseconds."""
        try:
            witness = kernel.open_process(self._witness)
        except OSError:
            return False
        try:
            deadline = time.monotonic() + _WITNESS_S
            while not (stopped := _is_stopped(witness)) and time.monotonic() < deadline:
                time.sleep(0.005)
            return stopped or _is_to_stop(witness)
        finally:
            os.close(witness)


def _is_stopped(process: int) -> bool:
    try:
        return kernel.state(process) == b"T"
    except OSError:
        return False  # it ended


def _is_to_stop(process: int) -> bool:
    """Whether SIGSTOP was sent to the process, which the node has not let run since."""
    try:
        lines = kernel.read(process, "status").splitlines()
    except OSError:
        return False
    pending = (int(line.split()[1], 16) for line in lines if line.startswith(b"ShdPnd:"))
    return bool(next(pending, 0) >> (signal.SIGSTOP - 1) & 1)


def watch_switches(pid: int) -> int:
    """Have the kernel tell, on the returned descriptor, when the process gives up its CPU.

    Raises OSError when the kernel does not offer it.
    """
    number = _PERF_EVENT_OPEN.get(os.uname().machine, -1)
    attributes = _ATTRIBUTES.pack(
        _TYPE_SOFTWARE, _ATTRIBUTES.size, _CONTEXT_SWITCHES, _EVERY_ONE, 0, 0, 0, _EVERY_ONE
    )
    descriptor: int = _libc.syscall(number, attributes, pid, -1, -1, _FLAG_CLOEXEC)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"perf_event_open: {os.strerror(error)}")
    return descriptor
