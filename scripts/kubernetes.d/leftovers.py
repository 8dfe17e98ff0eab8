"""What is left of a cluster, found in the kernel and where others keep files for it.

List, remove, list again: what the second list shows is a real leftover.
"""

import contextlib
from pathlib import Path

import cgroups
from cluster import MARK, Cluster, Node
from commands import attempt
from daemon import recorded
from machine import has_bridge, hosts_lines, may_use_slot, remove_bridge
from ports import listening_ports
from processes import all_pids, ancestors, command_line, has_in_environment, kill_all, parent_of
from remains import mounts, open_sockets, unmount_all
from slot import registry_port, slot_ports

# Kept there whatever the configuration says: shims' sockets, CNI's memory, links to pods' logs and
# the kubelet's socket for device plugins.
SHIM_SOCKETS = Path("/run/containerd/s")
CNI_RESULTS = Path("/var/lib/cni/results")
LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")


def remove_leftovers(cluster: Cluster) -> str:
    """Remove what the daemons left; say in words what that was."""
    sockets = _shim_sockets(cluster)
    counts = {
        "processes": kill_all(lambda: cluster_processes(cluster)),
        "mounts": unmount_all(cluster.state),
        "cgroups": cgroups.remove_all(lambda: _cgroups(cluster)),
        "bridges": sum(remove_bridge(each) for each in _with_slot(cluster)),
    }
    for path in [*sockets, *_files_elsewhere(cluster)]:
        path.unlink(missing_ok=True)
    for node in cluster.nodes:
        # As /run after a machine has started anew: containerd finds that no container runs.
        attempt(["rm", "-rf", "--one-file-system", str(node.run)])
    for folder in (SHIM_SOCKETS, CNI_RESULTS, LOG_LINKS, DEVICE_PLUGINS):
        _remove_empty(folder)
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def leftovers(cluster: Cluster) -> list[str]:
    """Return everything of this cluster that is still there, in words."""
    return [
        *(f"process {pid}: {command_line(pid)}" for pid in sorted(cluster_processes(cluster))),
        *(f"mount {path}" for path in mounts(cluster.state)),
        *(f"cgroup {path}" for path in _cgroups(cluster)),
        *(f"interface {each.bridge}" for each in _with_slot(cluster) if has_bridge(each)),
        *(f"socket {path}" for path in open_sockets(cluster.state)),
        *(f"open port {port}" for each in _with_slot(cluster) for port in _open_ports(each)),
        *(f"file {path}" for path in _files_elsewhere(cluster)),
        *(f"line in /etc/hosts: {line}" for line in hosts_lines(cluster)),
    ]


def cluster_processes(cluster: Cluster) -> set[int]:
    """Return the processes of this cluster: daemons, shims, pods, and what these started.

    They are told by the pods' cgroups and by the mark in the environment that the daemons have
    and hand on. This process and its ancestors are not among them.
    """
    parents = {pid: parent_of(pid) for pid in all_pids()}
    mark = f"{MARK}={cluster.state}"
    chosen = {pid for pid in parents if has_in_environment(pid, mark)}
    chosen |= cgroups.pids(_cgroups(cluster))
    while children := {pid for pid, parent in parents.items() if parent in chosen} - chosen:
        chosen |= children
    return chosen - ancestors(parents)


def pod_cgroups(cluster: Cluster) -> list[Path]:
    """Return the cgroups of the pods that the kubelets keep now."""
    return [path for path in _cgroups(cluster) if path.name.startswith("pod")]


def _with_slot(cluster: Cluster) -> list[Cluster]:
    """Return the cluster, or none when what its slot stands for has become another cluster's."""
    return [cluster] if may_use_slot(cluster) else []


def _nodes(cluster: Cluster) -> list[Node]:
    return [node for each in _with_slot(cluster) for node in each.nodes]


def _cgroups(cluster: Cluster) -> list[Path]:
    return cgroups.named({node.cgroup for node in _nodes(cluster)})


def _open_ports(cluster: Cluster) -> list[int]:
    ports = {*slot_ports(cluster.slot), registry_port(cluster.slot)}
    return sorted(listening_ports() & ports)


def _shim_sockets(cluster: Cluster) -> list[Path]:
    """Return the shims' sockets, whose names are digests that only the shims' folders tell."""
    notes = [note for node in cluster.nodes for note in _tasks(node).glob("*/address")]
    names = {note.read_text().removeprefix("unix://") for note in notes}
    return [Path(name) for name in names if Path(name).parent == SHIM_SOCKETS]


def _tasks(node: Node) -> Path:
    return node.run / "containerd/io.containerd.runtime.v2.task/k8s.io"


def _files_elsewhere(cluster: Cluster) -> list[Path]:
    """Return this cluster's files in folders that it shares with others."""
    links = LOG_LINKS.glob("*.log")
    state = f"{cluster.state}/"
    return [
        *(link for link in links if link.is_symlink() and str(link.readlink()).startswith(state)),
        *(path for node in _nodes(cluster) for path in _cni_results(node)),
        *_kubelet_sockets(),
    ]


def _cni_results(node: Node) -> list[Path]:
    """Return CNI's notes about the node's sandboxes, in the pods' network and on their loopback."""
    notes = list(CNI_RESULTS.glob(f"{node.network_name}-*-eth0"))
    ids = [note.name.removeprefix(f"{node.network_name}-").removesuffix("-eth0") for note in notes]
    loopbacks = [CNI_RESULTS / f"cni-loopback-{each}-lo" for each in ids]
    return [*notes, *(path for path in loopbacks if path.exists())]


def _kubelet_sockets() -> list[Path]:
    """Return the socket for device plugins unless another kubelet listens on it."""
    path = DEVICE_PLUGINS / "kubelet.sock"
    open_now = any(name == str(path) for name in open_sockets(DEVICE_PLUGINS))
    return [path] if path.is_socket() and not open_now else []


def _remove_empty(folder: Path) -> None:
    """Remove a folder and the one around it where nobody else's files are in them."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def is_up(cluster: Cluster, daemon: str) -> bool:
    """Whether a daemon of the cluster runs."""
    return recorded(cluster.run / "daemons" / f"{daemon}.json") is not None
