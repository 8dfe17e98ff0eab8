"""Every configuration file and folder of a cluster; the texts are in templates/."""

import string
from collections.abc import Mapping
from pathlib import Path

from cluster import ADDRESS, REGISTRY_HOST, REGISTRY_PORT, Cluster, Node
from files import make_folder, write

TEMPLATES = Path(__file__).resolve().parent / "templates"
IMAGE_PREFIX = f"{REGISTRY_HOST}:{REGISTRY_PORT}"
PAUSE_IMAGE = f"{IMAGE_PREFIX}/pause:latest"


def write_configuration(cluster: Cluster) -> None:
    """Write every folder and configuration file."""
    registries = cluster.etc / "registries"
    for path in (cluster.etc, cluster.run, cluster.log, registries / IMAGE_PREFIX):
        make_folder(path)
    make_folder(cluster.state / "etcd", 0o700)
    values = {
        "state": str(cluster.state),
        "pki": str(cluster.pki),
        "address": ADDRESS,
        "server": cluster.server,
        "registry": cluster.registry,
        "registries": str(registries),
        "pause_image": PAUSE_IMAGE,
        "bridge": cluster.bridge,
        "pod_network": str(cluster.pod_network),
        "gateway": str(cluster.gateway),
    }
    _write(cluster.etc / "audit-policy.yaml", values)
    _write(cluster.etc / "registry.yml", values)
    _write(registries / IMAGE_PREFIX / "hosts.toml", values)
    for user in ("admin", "kube-controller-manager", "kube-scheduler"):
        _write(cluster.etc / f"{user}.kubeconfig", {**values, "user": user}, "kubeconfig")
    for node in cluster.nodes:
        _write_node(node, values)


def _write_node(node: Node, values: Mapping[str, str]) -> None:
    for path in (node.folder, node.etc / "cni", node.run):
        make_folder(path)
    values = {
        **values,
        "node": node.name,
        "user": node.name,
        "folder": str(node.folder),
        "etc": str(node.etc),
        "run": str(node.run),
        "socket": str(node.containerd_socket),
        "kubelet_port": str(node.kubelet_port),
        "healthz_port": str(node.healthz_port),
        "cgroup": node.cgroup,
        "first_pod": str(node.pod_addresses[0]),
        "last_pod": str(node.pod_addresses[1]),
        "network": node.network_name,
    }
    _write(node.etc / "containerd.toml", values)
    _write(node.etc / "kubelet.yaml", values)
    _write(node.etc / "kubelet.kubeconfig", values, "kubeconfig")
    _write(node.etc / "cni/10-bridge.conflist", values, "cni.conflist")


def _write(path: Path, values: Mapping[str, str], template: str = "") -> None:
    text = (TEMPLATES / (template or path.name)).read_text()
    write(path, string.Template(text).substitute(values))
