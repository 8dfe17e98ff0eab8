"""What a slot stands for: the ports, names and addresses that keep clusters apart."""

import ipaddress

SLOTS = 30
ADDRESS = "127.0.0.1"
FIRST_PORT = 17000  # below those of scripts/dev-cluster
PORTS_PER_SLOT = 100
# Of these a cluster has one each; a node's begin at ten times its number.
CLUSTER_PORTS = (
    "kube-apiserver",
    "etcd",
    "etcd-peer",
    "kube-controller-manager",
    "kube-scheduler",
    "registry",
)
MAX_NODES = 8
# As the images are called in every cluster, wherever its own registry listens.
REGISTRY_HOST = "nas-hub.local"
REGISTRY_PORT = 5407
# RFC 2544 keeps these for tests of network devices: no site uses them. Nothing carries out services
# here; their addresses are only given away.
FIRST_POD_ADDRESS = ipaddress.IPv4Address("198.18.0.0")
ADDRESSES_PER_SLOT = 4096
PODS_PER_NODE = 128
SERVICE_NETWORK = "198.19.255.0/24"


def slot_nodes(slot: int) -> list[str]:
    """Return the names of the nodes that a cluster in this slot may have."""
    return [f"k{100 * slot + number}" for number in range(1, MAX_NODES + 1)]


def slot_ports(slot: int) -> range:
    """Return the ports of a cluster in this slot."""
    first = FIRST_PORT + PORTS_PER_SLOT * slot
    return range(first, first + PORTS_PER_SLOT)


def registry_port(slot: int) -> int:
    """Return the port of the slot's registry: the first one has that in the images' names."""
    return slot_ports(slot)[CLUSTER_PORTS.index("registry")] if slot else REGISTRY_PORT


def pod_network(slot: int) -> ipaddress.IPv4Network:
    """Return the network of the pods of a cluster in this slot."""
    first = FIRST_POD_ADDRESS + ADDRESSES_PER_SLOT * slot
    return ipaddress.IPv4Network(f"{first}/20")
