"""One Kubernetes cluster: its settings, its paths, and its share of what is global on a machine."""

import ipaddress
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from commands import PATH, Failure
from files import write
from state import state_folder

DEFAULT_STATE = "/var/tmp/sbridge-k8s"  # noqa: S108 -- root makes it
STATE_VARIABLE = "SBRIDGE_K8S_STATE"
ADDRESS = "127.0.0.1"
MAX_NODES = 8
SLOTS = 30
FIRST_PORT = 17000  # below those of scripts/dev-cluster
PORTS_PER_SLOT = 100
# As the images are called in every cluster, wherever its own registry listens.
REGISTRY_HOST = "nas-hub.local"
REGISTRY_PORT = 5407
# RFC 2544 keeps these for tests of network devices: no site uses them. Nothing carries out services
# here; their addresses are only given away.
FIRST_POD_ADDRESS = ipaddress.IPv4Address("198.18.0.0")
ADDRESSES_PER_SLOT = 4096
PODS_PER_NODE = 128
SERVICE_NETWORK = "198.19.255.0/24"
# Set for the daemons only, so that what they started can be told from the user's own shells.
MARK = "SBRIDGE_K8S_CLUSTER"


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for."""

    nodes: int = 1


@dataclass(frozen=True)
class Cluster:
    """One cluster; `slot` tells those on the same machine apart, `programs` holds Kubernetes'."""

    state: Path
    slot: int
    programs: Path
    settings: Settings = Settings()

    @cached_property
    def nodes(self) -> list["Node"]:
        return [Node(self, number) for number in range(1, self.settings.nodes + 1)]

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def pki(self) -> Path:
        return self.etc / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.etc / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.log / "audit.log"

    def port(self, what: str) -> int:
        """Return the port of what the cluster has one of."""
        names = ("kube-apiserver", "etcd", "etcd-peer", "kube-controller-manager", "kube-scheduler")
        if what == "registry":
            return registry_port(self.slot)
        return slot_ports(self.slot)[names.index(what)]

    @property
    def server(self) -> str:
        return f"https://{ADDRESS}:{self.port('kube-apiserver')}"

    @property
    def registry(self) -> str:
        return f"{ADDRESS}:{self.port('registry')}"

    @property
    def bridge(self) -> str:
        """The interface that the pods of all nodes are on."""
        return f"sbridge-pods{self.slot}"

    @property
    def pod_network(self) -> ipaddress.IPv4Network:
        first = FIRST_POD_ADDRESS + ADDRESSES_PER_SLOT * self.slot
        return ipaddress.IPv4Network(f"{first}/20")

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The machine's own address on the bridge."""
        return self.pod_network[1]

    @property
    def client_environment(self) -> dict[str, str]:
        """What `env` prints: enough for kubectl, ctr and skopeo to find this cluster."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "CONTAINERD_ADDRESS": str(self.nodes[0].containerd_socket),
            "CONTAINERD_NAMESPACE": "k8s.io",
            "SBRIDGE_K8S_STATE": str(self.state),
            "SBRIDGE_K8S_NODES": " ".join(node.name for node in self.nodes),
            "SBRIDGE_K8S_REGISTRY": self.registry,
            "SBRIDGE_K8S_LOGS": str(self.log),
        }

    @property
    def daemon_environment(self) -> dict[str, str]:
        return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", MARK: str(self.state)}

    def save(self) -> None:
        saved = {"slot": self.slot, "programs": str(self.programs), **asdict(self.settings)}
        write(self.state / "cluster.json", json.dumps(saved))


@dataclass(frozen=True)
class Node:
    """One node: a kubelet and a containerd with names, ports and addresses of their own."""

    cluster: Cluster
    number: int

    @property
    def name(self) -> str:
        return slot_nodes(self.cluster.slot)[self.number - 1]

    @property
    def folder(self) -> Path:
        return self.cluster.state / self.name

    @property
    def etc(self) -> Path:
        return self.cluster.etc / self.name

    @property
    def run(self) -> Path:
        return self.cluster.run / self.name

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def kubelet_port(self) -> int:
        return slot_ports(self.cluster.slot)[10 * self.number]

    @property
    def healthz_port(self) -> int:
        return slot_ports(self.cluster.slot)[10 * self.number + 1]

    @property
    def cgroup(self) -> str:
        """The name of the topmost cgroup of the node's pods, in each hierarchy."""
        return f"sbridge-{self.name}"

    @property
    def network_name(self) -> str:
        """What CNI calls the pods' network."""
        return f"sbridge-{self.name}"

    @property
    def pod_addresses(self) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
        """The first and the last address of this node's pods."""
        first = PODS_PER_NODE * self.number
        network = self.cluster.pod_network
        return network[first], network[first + PODS_PER_NODE - 1]


def slot_nodes(slot: int) -> list[str]:
    """Return the names of the nodes that a cluster in this slot may have."""
    return [f"k{100 * slot + number}" for number in range(1, MAX_NODES + 1)]


def slot_ports(slot: int) -> range:
    """Return the ports of a cluster in this slot."""
    first = FIRST_PORT + PORTS_PER_SLOT * slot
    return range(first, first + PORTS_PER_SLOT)


def registry_port(slot: int) -> int:
    """Return the port of the slot's registry: the first one has that in the images' names."""
    return slot_ports(slot)[5] if slot else REGISTRY_PORT


def wanted_state() -> Path:
    """Return the state folder that was asked for."""
    return state_folder(STATE_VARIABLE, DEFAULT_STATE)


def saved_cluster(state: Path) -> Cluster | None:
    """Return the cluster that `up` made in `state`, whether it runs or not."""
    try:
        saved = json.loads((state / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    return Cluster(state, saved.pop("slot"), Path(saved.pop("programs")), Settings(**saved))


def existing_cluster() -> Cluster:
    """Return the saved cluster; without one there is nothing to do."""
    state = wanted_state()
    cluster = saved_cluster(state)
    if cluster is None:
        raise Failure(f"There is no cluster in {state}; `scripts/kubernetes up` makes one.")
    return cluster
