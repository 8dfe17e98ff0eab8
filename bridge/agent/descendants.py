"""The processes that came of one, as /proc shows them at this moment."""

import os


def descendants(root: int, session: int) -> list[int]:
    """Return `root` and all processes that descend from it or are in `session`, but its leader.

    The leader is `root` itself or has nothing to do with it; -1 is no session.
    """
    parents: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        parents[int(name)] = (int(stat[1]), int(stat[3]))
    found = {root}
    size = 0
    while len(found) > size:
        size = len(found)
        found |= {
            pid
            for pid, (parent, its_session) in parents.items()
            if parent in found or (its_session == session and pid != session)
        }
    return sorted(found)
