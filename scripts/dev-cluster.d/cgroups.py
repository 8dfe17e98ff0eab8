"""The cgroups that Slurm and Podman make for a cluster's jobs.

Slurm calls a node's top one slurm_<node> in each hierarchy of cgroup v1, and
<node>_slurmstepd.scope in v2. Podman calls a pod's by its id.
"""

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PODMAN_PARENT = "libpod_parent"


def of_nodes(nodes: Collection[str]) -> list[Path]:
    """Return all cgroups of these nodes' jobs, deepest first."""
    names = {f"slurm_{node}" for node in nodes} | {f"{node}_slurmstepd.scope" for node in nodes}
    return _below(path for path in _upper_levels() if path.name in names)


def of_pods(pods: Collection[str]) -> list[Path]:
    """Return all cgroups of these pods, deepest first."""
    parents = [path for path in _upper_levels() if path.name == PODMAN_PARENT]
    return _below(parent / pod for parent in parents for pod in pods)


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


def remove_empty_parents() -> None:
    """Remove Podman's parent where nobody's pods are left in it."""
    remove([path for path in _upper_levels() if path.name == PODMAN_PARENT])


def _upper_levels() -> set[Path]:
    # cgroup v1 has a link for each of two controllers that share a hierarchy.
    found = (path for depth in ("*", "*/*", "*/*/*") for path in ROOT.glob(depth))
    return {path.resolve() for path in found if path.is_dir()}


def _below(tops: Iterable[Path]) -> list[Path]:
    found = set()
    for top in tops:
        if top.is_dir():
            found |= {top, *(path for path in top.rglob("*") if path.is_dir())}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
