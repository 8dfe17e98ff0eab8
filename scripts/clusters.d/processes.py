"""Processes, by pid and the time they began: a pid alone is used again."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from commands import Failure, wait_until

STOP_TIMEOUT_S = 20.0


def start_time(pid: int) -> str | None:
    """Return when a process began, in the kernel's ticks: pids are used again, this pair is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def end_processes(pids: Sequence[int]) -> None:
    """TERM, then KILL, those processes, and wait for their end."""
    running = {pid: start_time(pid) for pid in pids}

    def left() -> list[int]:
        return [pid for pid, began in running.items() if began and start_time(pid) == began]

    for number in (signal.SIGTERM, signal.SIGKILL):
        send(number, left())
        if wait_until(lambda: not left(), STOP_TIMEOUT_S):
            return
    raise Failure(f"Processes that even SIGKILL does not end: {left()}")


def kill_all(find: Callable[[], set[int]]) -> int:
    """Kill the processes that `find` finds, and whatever those may start meanwhile; count them."""
    found: set[int] = set()

    def none_left() -> bool:
        # Stopped first, so that none makes new ones. Those whose parent then dies are continued by
        # the kernel (an orphaned process group), hence more than one round.
        stopped: set[int] = set()
        while more := find() - stopped:
            send(signal.SIGSTOP, more)
            stopped |= more
        send(signal.SIGKILL, stopped)
        found.update(stopped)
        return not stopped

    wait_until(none_left, STOP_TIMEOUT_S)
    return len(found)


def has_in_environment(pid: int, setting: str) -> bool:
    """Whether a process was started with that NAME=VALUE in its environment."""
    with contextlib.suppress(OSError):
        return setting.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those of the processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def all_pids() -> list[int]:
    """Return the pids of all processes of this machine."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def parent_of(pid: int) -> int:
    """Return a process's parent, 0 when there is none to see."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def ancestors(parents: Mapping[int, int]) -> set[int]:
    """Return this process and those above it, by the parents given."""
    found, pid = set(), os.getpid()
    while pid:
        found.add(pid)
        pid = parents.get(pid, 0)
    return found


def command_line(pid: int) -> str:
    """Return the begin of a process's command line, for people to read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
    return "(gone)"
