"""The processes that came of one, as /proc shows them at this moment."""

import os
from collections.abc import Iterator


def descendants(root: int, session: int) -> list[int]:
    """Return `root` and all processes that descend from it or are in `session`, but its leader.

    The leader is `root` itself or has nothing to do with it; -1 is no session.
    """
    processes = dict(_processes())
    found = {root}
    size = 0
    while len(found) > size:
        size = len(found)
        found |= {
            pid
            for pid, (parent, _, its_session) in processes.items()
            if parent in found or (its_session == session and pid != session)
        }
    return sorted(found)


def members(group: int) -> list[int]:
    """Return the processes of a process group."""
    return sorted(pid for pid, (_, its_group, _) in _processes() if its_group == group)


def _processes() -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield the processes: pid, and parent, process group and session."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        yield int(name), (int(stat[1]), int(stat[2]), int(stat[3]))
