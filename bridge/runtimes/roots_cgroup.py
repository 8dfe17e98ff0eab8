"""The cgroups of a process as far as they say who put it there.

A user may have a cgroup of his own to name as he likes (delegation: his systemd session, Podman
without root). Such a one is his, and so is all below it; where only root's are, root or its
daemons have given the name and put the process in.
"""

import os

from bridge import cgroups, kernel

_ROOT = 0


def made_by_root(process: int) -> list[list[str]]:
    """Return the process's cgroups, each as the names on its path down to the first not root's.

    `process` is a descriptor of its /proc folder. A hierarchy that is not mounted tells nothing.
    Raises OSError when the process has ended.
    """
    paths = cgroups.of_process(process)
    return [_made_by_root(controllers, path.split("/")[1:]) for controllers, path in paths.items()]


def _made_by_root(controllers: str, names: list[str]) -> list[str]:
    folder = cgroups.hierarchy(controllers)
    if folder is None:
        return []
    for index, name in enumerate(names):
        folder /= name
        try:
            is_roots = name != ".." and os.lstat(folder).st_uid == _ROOT
        except OSError:  # it was removed, or none of this mount's
            is_roots = False
        if not is_roots:
            return names[:index]
    return names


def is_first(process: int) -> bool:
    """Whether it is the first of a PID namespace just below this one, as containers' first are.

    A namespace that a container's process makes is one further down.
    """
    status = kernel.read(process, "status").splitlines()
    pids = next((line for line in status if line.startswith(b"NSpid:")), b"").split()[1:]
    return len(pids) == 2 and pids[1] == b"1"
