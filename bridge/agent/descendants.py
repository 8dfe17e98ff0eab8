"""The processes that came of one, as /proc shows them at this moment."""

from bridge import kernel


def descendants(root: int, session: int) -> list[int]:
    """Return `root` and all processes that descend from it or are in `session`, but its leader.

    The leader is `root` itself or has nothing to do with it; -1 is no session.
    """
    processes = dict(kernel.processes())
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
    return sorted(pid for pid, (_, its_group, _) in kernel.processes() if its_group == group)
