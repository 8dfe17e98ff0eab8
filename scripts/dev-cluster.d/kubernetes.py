"""The Kubernetes that a cluster's jobs run in: scripts/kubernetes, one for all clusters.

Each cluster has its own namespace there, and its agents have only what a site's agents get.
"""

import math
import os
import re
import subprocess
from pathlib import Path

from cluster import Cluster
from commands import PATH, Failure, call

_SCRIPT = str(Path(__file__).resolve().parents[1] / "kubernetes")
_TIMEOUT_S = 300
_STATE = "SBRIDGE_K8S_STATE"


def kubernetes_up() -> None:
    """Bring Kubernetes up and show how far it is: the first time it is built, for minutes."""
    if subprocess.run([_SCRIPT, "up"], check=False).returncode:
        raise Failure("Kubernetes does not come up; the lines above say why.")


def namespace(cluster: Cluster) -> str:
    """Return the cluster's own namespace."""
    return f"sbridge-{cluster.nodes[0]}"


def node_names(cluster: Cluster) -> list[str]:
    """Return Kubernetes' names of the Slurm nodes: several may share one."""
    names = _nodes()
    return [f"{node}={names[index % len(names)]}" for index, node in enumerate(cluster.nodes)]


def cpus_per_node(cluster: Cluster) -> int:
    """Return how many CPUs each Slurm node has: Kubernetes believes in this machine's only.

    Each of its nodes takes all of them for its own, and its Slurm nodes share these.
    """
    sharers = math.ceil(len(cluster.nodes) / len(_nodes()))
    return max(1, (os.cpu_count() or 1) // sharers)


def prepare_namespace(cluster: Cluster) -> str:
    """Install what the agents need, as an administrator does, and get their credentials."""
    sbridge = str(cluster.prefix / "bin" / "sbridge")
    environment = {"SBRIDGE_CONFIG": str(cluster.etc / "sbridge.toml"), "PATH": PATH}
    environment["KUBECONFIG"] = _environment()["KUBECONFIG"]
    call([sbridge, "kubernetes", "apply"], environment, timeout_s=_TIMEOUT_S)
    text = call([sbridge, "kubernetes", "kubeconfig"], environment, timeout_s=_TIMEOUT_S)
    descriptor = os.open(agent_kubeconfig(cluster), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return f"namespace {namespace(cluster)}"


def agent_kubeconfig(cluster: Cluster) -> Path:
    """Return where the agents' credentials are."""
    return cluster.etc / "agent.kubeconfig"


def _nodes() -> list[str]:
    return _environment()["SBRIDGE_K8S_NODES"].split()


def _environment() -> dict[str, str]:
    kept = {_STATE: os.environ[_STATE]} if _STATE in os.environ else {}
    text = call([_SCRIPT, "env"], kept)
    return dict(re.findall(r"^export (\w+)='?(.*?)'?$", text, re.MULTILINE))
