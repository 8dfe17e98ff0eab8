"""The cgroups that Slurm, Podman and the kubelet make for a cluster's jobs.

Slurm calls a node's top one slurm_<node> in each hierarchy of cgroup v1, and
<node>_slurmstepd.scope in v2. Podman calls a pod's by its id. The kubelet's are below one of a
name of ours.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from commands import wait_until

ROOT = Path("/sys/fs/cgroup")
PODMAN_PARENT = "libpod_parent"
COLLECTED_TIMEOUT_S = 5.0


def of_nodes(nodes: Collection[str]) -> list[Path]:
    """Return all cgroups of these nodes' jobs, deepest first."""
    return named(
        {f"slurm_{node}" for node in nodes} | {f"{node}_slurmstepd.scope" for node in nodes}
    )


def named(names: Collection[str]) -> list[Path]:
    """Return the cgroups of these names in every hierarchy, and all below them, deepest first."""
    return _below(path for path in _upper_levels() if path.name in names)


def of_pods(pods: Collection[str]) -> list[Path]:
    """Return all cgroups of these pods, deepest first."""
    parents = [path for path in _upper_levels() if path.name == PODMAN_PARENT]
    return _below(parent / pod for parent in parents for pod in pods)


def make(name: str) -> None:
    """Make a cgroup at the top of every hierarchy that has controllers; none of it limits."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
        # A new cpuset is empty, and nothing may join it.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / name / setting).exists() and (hierarchy / setting).exists():
                (hierarchy / name / setting).write_text((hierarchy / setting).read_text())


def _hierarchies() -> set[Path]:
    """Return where each hierarchy begins: one in cgroup v2, one for each controller in v1."""
    if (ROOT / "cgroup.controllers").exists():
        controllers = (ROOT / "cgroup.controllers").read_text().split()
        (ROOT / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
        return {ROOT}
    return {path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()}


def pids(paths: Collection[Path]) -> set[int]:
    """Return the processes in these cgroups."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found |= {int(line) for line in (path / "cgroup.procs").read_text().split()}
    return found


def remove(paths: Collection[Path]) -> int:
    """Remove those of the cgroups (deepest first) that are empty, and count them."""
    count = 0
    for path in paths:
        with contextlib.suppress(OSError):
            path.rmdir()
            count += 1
    return count


def remove_all(find: Callable[[], Collection[Path]]) -> int:
    """Remove the cgroups that `find` finds, and count them.

    A killed process is in its own until PID 1 has collected it.
    """
    count = 0

    def none_left() -> bool:
        nonlocal count
        count += remove(find())
        return not find()

    wait_until(none_left, COLLECTED_TIMEOUT_S)
    return count


def remove_empty_parents() -> None:
    """Remove Podman's parent where nobody's pods are left in it."""
    remove([path for path in _upper_levels() if path.name == PODMAN_PARENT])


def _upper_levels() -> set[Path]:
    found = {ROOT}
    level = {ROOT}
    for _ in range(3):
        level = {path for parent in level for path in _folders(parent)}
        found |= level
    return found - {ROOT}


def _folders(parent: Path) -> set[Path]:
    """Return the folders in `parent`; other clusters' come and go meanwhile."""
    try:
        # cgroup v1 has a link for each of two controllers that share a hierarchy.
        return {path.resolve() for path in parent.iterdir() if path.is_dir()}
    except OSError:
        return set()


def _below(tops: Iterable[Path]) -> list[Path]:
    found = set()
    for top in tops:
        if top.is_dir():
            found |= {Path(folder) for folder, _, _ in os.walk(top)}  # bears that some vanish
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
