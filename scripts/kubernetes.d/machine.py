"""What a cluster takes of the machine: a slot, names in /etc/hosts, bridges, cgroups, a limit."""

from pathlib import Path

import cgroups
from cluster import Cluster
from commands import attempt, call
from inotify import put_limit_back, raise_limit
from ports import listening_ports
from slot import ADDRESS, REGISTRY_HOST, SLOTS, registry_port, slot_nodes, slot_ports
from slots import Slots

HOSTS = Path("/etc/hosts")


def _is_free(slot: int) -> bool:
    """Whether nobody else uses the slot's ports or node names."""
    ports = {*slot_ports(slot), registry_port(slot)}
    return not listening_ports() & ports and not cgroups.named(
        {f"sbridge-{node}" for node in slot_nodes(slot)}
    )


SHARED = Slots("sbridge-k8s", SLOTS, _is_free)


def claim_slot(state: Path, wanted: int | None) -> int:
    """Return this cluster's slot, its old one where that is still free."""
    return SHARED.claim(state, wanted)


def release(cluster: Cluster) -> None:
    """Give the slot back; whoever is last leaves the machine's limit as it was."""
    with SHARED.record() as record:
        SHARED.give_back(record, cluster.slot, cluster.state)
        put_limit_back(record)


def may_use_slot(cluster: Cluster) -> bool:
    """Whether nobody else holds the slot that this cluster has or had before its last `down`."""
    return SHARED.may_use(cluster.slot, cluster.state)


def prepare(cluster: Cluster) -> str:
    """Make what the kubelets and containerds expect to find on their machine."""
    names = [REGISTRY_HOST, *(node.name for node in cluster.nodes)]
    _write_hosts(cluster, [f"{ADDRESS} {' '.join(names)} {_mark(cluster)}"])
    for node in cluster.nodes:
        cgroups.make(node.cgroup)
    _make_bridge(cluster)
    with SHARED.record() as record:
        said = [f"{cluster.bridge} {cluster.gateway}", raise_limit(record)]
    return ", ".join(filter(None, said))


def hosts_lines(cluster: Cluster) -> list[str]:
    """Return the lines of /etc/hosts that belong to this cluster."""
    return [line for line in HOSTS.read_text().splitlines() if line.endswith(_mark(cluster))]


def forget_names(cluster: Cluster) -> None:
    """Remove what was written into /etc/hosts."""
    _write_hosts(cluster, [])


def _mark(cluster: Cluster) -> str:
    return f"# sbridge: scripts/kubernetes, {cluster.state}"


def _write_hosts(cluster: Cluster, ours: list[str]) -> None:
    """Replace this cluster's lines; in place, because the file may be a mount of its own."""
    with SHARED.record():
        text = HOSTS.read_text()
        others = [line for line in text.splitlines() if not line.endswith(_mark(cluster))]
        wanted = "".join(f"{line}\n" for line in [*others, *ours])
        if wanted != text:
            HOSTS.write_text(wanted)


def _make_bridge(cluster: Cluster) -> None:
    """Make the pods' bridge with its address.

    CNI would make it too, but would then turn on forwarding for the whole machine.
    """
    if not has_bridge(cluster):
        call(["ip", "link", "add", cluster.bridge, "type", "bridge"])
    address = f"{cluster.gateway}/{cluster.pod_network.prefixlen}"
    call(["ip", "address", "replace", address, "dev", cluster.bridge])
    call(["ip", "link", "set", cluster.bridge, "up"])


def remove_bridge(cluster: Cluster) -> bool:
    """Remove the pods' bridge; True when it was there."""
    return attempt(["ip", "link", "delete", cluster.bridge]).returncode == 0


def has_bridge(cluster: Cluster) -> bool:
    """Whether the pods' bridge is there."""
    return Path("/sys/class/net", cluster.bridge).exists()
