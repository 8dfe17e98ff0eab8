"""What is left of a cluster's jobs, found in the kernel and in Podman, never by a program's name.

List, remove, list again: what the second list shows is a real leftover.
"""

from collections.abc import Collection
from pathlib import Path

import cgroups
from cluster import MARK, Cluster, slot_ports
from commands import attempt, wait_until
from daemon import recorded
from gpus import devices_left, remove_devices
from machine import may_use_slot
from ports import listening_ports
from processes import STOP_TIMEOUT_S, all_pids, ancestors, command_line, kill_all, parent_of
from remains import mounts, open_sockets, unmount_all
from roster import BASE_DAEMONS

PODMAN_TIMEOUT_S = 60.0


def pods(cluster: Cluster) -> list[str]:
    """Return the ids of the cluster's pods."""
    if not _has_podman_storage(cluster):
        return []
    return _podman(cluster, "pod", "ps", "--quiet", "--no-trunc").split()


def remove_leftovers(cluster: Cluster, pod_ids: Collection[str]) -> str:
    """Remove what is left of the jobs; say in words what that was."""
    processes = _kill_processes(cluster)
    counts = {
        "containers": _remove_containers(cluster),
        "processes": processes + _kill_processes(cluster),  # what Podman started for the removal
        "mounts": unmount_all(cluster.state),
        "cgroups": cgroups.remove_all(lambda: _job_cgroups(cluster, pod_ids)),
        "devices": remove_devices(cluster),
    }
    cgroups.remove_empty_parents()
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def leftovers(cluster: Cluster, pod_ids: Collection[str]) -> list[str]:
    """Return everything of this cluster that is still there, in words."""
    ports = slot_ports(cluster.slot) if may_use_slot(cluster) else ()
    open_ports = listening_ports() & set(ports)
    return [
        *(f"process {pid}: {command_line(pid)}" for pid in sorted(_job_processes(cluster))),
        *(f"container {name}" for name in _containers(cluster)),
        *(f"mount {path}" for path in mounts(cluster.state)),
        *(f"cgroup {path}" for path in _job_cgroups(cluster, pod_ids)),
        *(f"device {path}" for path in devices_left(cluster)),
        *(f"socket {path}" for path in open_sockets(cluster.state)),
        *(f"open port {port}" for port in sorted(open_ports)),
    ]


def _job_cgroups(cluster: Cluster, pod_ids: Collection[str]) -> list[Path]:
    return [*cgroups.of_nodes(_nodes(cluster)), *cgroups.of_pods(pod_ids)]


def _nodes(cluster: Cluster) -> list[str]:
    """Return the nodes' names, as far as they have not become those of another cluster."""
    return cluster.nodes if may_use_slot(cluster) else []


def _job_processes(cluster: Cluster) -> set[int]:
    """Return the processes that belong to this cluster's jobs and sandboxes.

    They are told by their cgroup, by a mark in the environment that only its daemons or the
    commands of these have, by being a job's process on one of its nodes, or by running from its
    prefix; and what these started. The daemons below Slurm, and this process and its ancestors,
    are not among them.
    """
    parents = {pid: parent_of(pid) for pid in all_pids()}
    chosen = {pid for pid in parents if _belongs(cluster, pid)}
    chosen |= cgroups.pids(cgroups.of_nodes(_nodes(cluster)))
    while children := {pid for pid, parent in parents.items() if parent in chosen} - chosen:
        chosen |= children
    return chosen - ancestors(parents) - _base_daemons(cluster)


def _belongs(cluster: Cluster, pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    marks = (
        f"{MARK}={cluster.state}",
        f"CONTAINERS_CONF={cluster.containers_conf}",
        f"SLURM_CONF={cluster.sbridge_slurm_conf}",
    )
    if any(mark.encode() in environment for mark in marks):
        return True
    if any(word.startswith(f"{cluster.prefix}/".encode()) for word in argv[:2]):
        return True
    in_job = f"SLURM_CONF={cluster.slurm_conf}".encode() in environment
    return in_job and any(f"SLURMD_NODENAME={n}".encode() in environment for n in cluster.nodes)


def _base_daemons(cluster: Cluster) -> set[int]:
    saved = [recorded(cluster.run / "daemons" / f"{name}.json") for name in BASE_DAEMONS]
    return {entry["pid"] for entry in saved if entry}


def _kill_processes(cluster: Cluster) -> int:
    """Kill what scancel did not reach, and whatever that may start meanwhile."""
    return kill_all(lambda: _job_processes(cluster))


def _remove_containers(cluster: Cluster) -> int:
    containers = _containers(cluster)

    def none_left() -> bool:
        # Podman 4.3.1 fails once at a container whose conmon was killed: it is "stopping" then.
        if _containers(cluster):
            _podman(cluster, "pod", "rm", "--all", "--force", "--time=0")
            _podman(cluster, "rm", "--all", "--force", "--time=0")
        return not _containers(cluster)

    wait_until(none_left, STOP_TIMEOUT_S)
    return len(containers)


def _containers(cluster: Cluster) -> list[str]:
    if not _has_podman_storage(cluster):
        return []
    return _podman(cluster, "ps", "--all", "--quiet").split()


def _has_podman_storage(cluster: Cluster) -> bool:
    return (cluster.state / "podman/root/libpod").is_dir()


def _podman(cluster: Cluster, *arguments: str) -> str:
    argv = [*cluster.podman, *arguments]
    return attempt(argv, cluster.podman_environment, PODMAN_TIMEOUT_S).stdout
