"""`down`: end everything, look whether anything is left, and say so."""

import functools
import subprocess

from api import kubectl
from cluster import Cluster, saved_cluster, wanted_state
from commands import Failure, wait_until
from daemon import stop_all
from files import exclusive
from leftovers import is_up, leftovers, pod_cgroups, remove_leftovers
from machine import forget_names, release
from steps import Steps

PODS_TIMEOUT_S = 20.0


def down(purge: bool) -> None:
    """End everything of the cluster; with `purge` remove its files too."""
    state = wanted_state()
    cluster = saved_cluster(state)
    if cluster is None:
        print(f"There is no cluster in {state}.")
        return
    with exclusive(state):
        with Steps() as steps:
            steps.run("pods", functools.partial(_delete_pods, cluster))
            steps.run("daemons", functools.partial(_stop_daemons, cluster))
            steps.run("leftovers", functools.partial(remove_leftovers, cluster))
        forget_names(cluster)
        if left := leftovers(cluster):
            raise Failure("These are still there:\n" + "\n".join(f"    {item}" for item in left))
        release(cluster)
        if purge:
            subprocess.run(["rm", "-rf", "--one-file-system", state], check=True)  # of any depth
    kept = "removed" if purge else f"kept in {state} (`down --purge` removes it)"
    print(f"Down, nothing left behind; state {kept}.")


def stop(cluster: Cluster) -> str:
    """End everything that runs; files and names stay."""
    said = [part(cluster) for part in (_delete_pods, _stop_daemons, remove_leftovers)]
    return f"pods: {said[0]}, left over: {said[2]}"


def _delete_pods(cluster: Cluster) -> str:
    """Have the kubelets end the pods, where the cluster is well enough for that."""
    _stop(cluster, "kube-controller-manager", "kube-scheduler")  # they would make new ones
    if not is_up(cluster, "kube-apiserver") or not is_up(cluster, "etcd"):
        return "nobody to ask"
    delete = ["delete", "pods", "--all", "--all-namespaces", "--output=name"]
    on_nodes = [*_of_each(cluster, "kubelet"), *_of_each(cluster, "containerd")]
    if not all(is_up(cluster, name) for name in on_nodes):
        said = kubectl(cluster, *delete, "--force", "--grace-period=0", "--wait=false")
        return f"{said.stdout.count('pod/')} forgotten"
    said = kubectl(cluster, *delete, "--grace-period=1", f"--timeout={PODS_TIMEOUT_S:.0f}s")
    wait_until(lambda: not pod_cgroups(cluster), PODS_TIMEOUT_S)
    return f"{said.stdout.count('pod/')} deleted"


def _stop_daemons(cluster: Cluster) -> str:
    """Stop each before what it stands on."""
    _stop(cluster, *_of_each(cluster, "kubelet"))
    _stop(cluster, *_of_each(cluster, "containerd"), "kube-apiserver", "registry")
    _stop(cluster, "etcd")
    return "stopped"


def _of_each(cluster: Cluster, daemon: str) -> list[str]:
    return [f"{daemon}-{node.name}" for node in cluster.nodes]


def _stop(cluster: Cluster, *names: str) -> None:
    records = [cluster.run / "daemons" / f"{name}.json" for name in names]
    stop_all([record for record in records if record.exists()])
