"""`up`: from whatever there is to the cluster that is wanted, everything at once that can be."""

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from api import get, kubectl, registry_tags
from certificates import make_certificates
from cluster import (
    DEFAULT_STATE,
    STATE_VARIABLE,
    Cluster,
    Settings,
    saved_cluster,
    wanted_state,
)
from commands import Failure, call, wait_until
from configuration import IMAGE_PREFIX, write_configuration
from daemon import START_TIMEOUT_S
from files import exclusive, make_folder
from machine import claim_slot, prepare
from packages import check_packages
from programs import build, program_folder
from roster import apiserver, containerd, controller_manager, etcd, kubelet, registry, scheduler
from state import refuse_foreign
from steps import Steps
from take_down import stop

SCRIPTS = Path(__file__).resolve().parents[1]
IMAGES = ("alpine", "bash", "static", "pause")


def up(wanted: Mapping[str, Any]) -> None:
    """Bring the cluster up, or to what is wanted now."""
    check_packages("kubernetes")
    state = wanted_state()
    refuse_foreign(state)
    make_folder(state)
    with exclusive(state):
        before = saved_cluster(state)
        settings = Settings(**{**(asdict(before.settings) if before else {}), **wanted})
        slot = claim_slot(state, before.slot if before else None)
        cluster = Cluster(state, slot, program_folder(), settings)
        with Steps() as steps:
            if before and before.settings.nodes > settings.nodes:
                steps.run("old nodes", functools.partial(stop, before))
            cluster.save()
            write_configuration(cluster)
            _start_everything(cluster, steps)
            _report(cluster, steps.elapsed_s)


def _start_everything(cluster: Cluster, steps: Steps) -> None:
    """Start what is not up, each as soon as what it needs is there."""
    programs = steps.start("programs", build)
    steps.run("certificates", functools.partial(make_certificates, cluster))
    steps.run("machine", functools.partial(prepare, cluster))
    storage = steps.start("etcd", etcd(cluster).up)
    runtimes = [
        steps.start(f"containerd {node.name}", containerd(node).up) for node in cluster.nodes
    ]
    steps.run("registry", registry(cluster).up)
    images = steps.start("images", functools.partial(_push_images, cluster))
    steps.finish(storage, programs)
    steps.run("apiserver", apiserver(cluster).up)
    controllers = [
        steps.start("controllers", controller_manager(cluster).up),
        steps.start("scheduler", scheduler(cluster).up),
    ]
    steps.finish(*runtimes)
    kubelets = [steps.start(f"kubelet {node.name}", kubelet(node).up) for node in cluster.nodes]
    steps.finish(*controllers, *kubelets)
    steps.run("nodes", functools.partial(_wait_for_nodes, cluster))
    steps.run("accounts", functools.partial(_wait_for_accounts, cluster))
    steps.finish(images)


def _push_images(cluster: Cluster) -> str:
    missing = [name for name in IMAGES if "latest" not in registry_tags(cluster, name)]
    if missing:
        storage = cluster.state / "podman"
        call(
            [
                *(str(SCRIPTS / "make-images"), "--push", cluster.registry),
                # What it keeps there is a cache; vfs mounts nothing.
                *("podman", f"--root={storage}/root", f"--runroot={storage}/run"),
                "--storage-driver=vfs",
            ]
        )
    return " ".join(f"{IMAGE_PREFIX}/{name}:latest" for name in IMAGES)


def _wait_for_nodes(cluster: Cluster) -> str:
    """Wait until every node is ready, and forget those of other options."""
    names = {node.name for node in cluster.nodes}
    known = (get(cluster, "/api/v1/nodes") or {}).get("items", [])
    if gone := {node["metadata"]["name"] for node in known} - names:
        kubectl(cluster, "delete", "nodes", *sorted(gone))

    def why_not() -> dict[str, str]:
        found = {node.name: _unready(cluster, node.name) for node in cluster.nodes}
        return {name: reason for name, reason in found.items() if reason}

    if not wait_until(lambda: not why_not(), START_TIMEOUT_S):
        reasons = "\n".join(f"    {name}: {reason}" for name, reason in why_not().items())
        raise Failure(f"These nodes do not become ready:\n{reasons}")
    return " ".join(node.name for node in cluster.nodes)


def _unready(cluster: Cluster, node: str) -> str:
    """Return why a node is not ready, or nothing."""
    found = get(cluster, f"/api/v1/nodes/{node}")
    if found is None:
        return "its kubelet has not registered it"
    for condition in found["status"].get("conditions", []):
        if condition["type"] == "Ready":
            return "" if condition["status"] == "True" else str(condition["message"])
    return "its kubelet has not told its state"


def _wait_for_accounts(cluster: Cluster) -> str:
    """Wait for what a new cluster's first pod needs: the controllers make it after some seconds."""
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    if not wait_until(lambda: get(cluster, path) is not None, START_TIMEOUT_S):
        log = controller_manager(cluster).log
        raise Failure(f"The controllers do not make the service account 'default'; see {log}.")
    return "namespace default"


def _report(cluster: Cluster, elapsed_s: float) -> None:
    is_default = str(cluster.state) == DEFAULT_STATE
    state = "" if is_default else f"{STATE_VARIABLE}={cluster.state} "
    names = " ".join(node.name for node in cluster.nodes)
    print(f"""Up in {elapsed_s:.1f} s: {names}, state in {cluster.state}
  eval "$({state}scripts/kubernetes env)"     then kubectl works here
  kubectl run hello --rm -it --restart=Never --image={IMAGE_PREFIX}/bash -- bash
  {state}scripts/kubernetes down""")
