"""`up`: from whatever there is to the cluster that is wanted, everything at once that can be."""

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from authentication import authenticator, check_authentication
from cluster import (
    CLUSTER_NAME,
    DEFAULT_STATE,
    USERS,
    Cluster,
    Settings,
    saved_cluster,
    wanted_state,
)
from commands import Failure, call, wait_until
from configuration import make_folders, write_configuration
from daemon import START_TIMEOUT_S
from files import check_traversable, exclusive, make_folder
from gpus import make_devices
from kubernetes import kubernetes_up, prepare_namespace
from leftovers import pods, remove_leftovers
from machine import claim_slot, make_users
from packages import check_packages
from release import CACHE, programs, provide, search_path
from roster import agent, database, slurm, slurmctld, slurmd, slurmdbd, watcher
from state import refuse_foreign
from steps import Steps
from take_down import cancel_jobs, stop_slurm

SCRIPTS = Path(__file__).resolve().parents[1]
ACCOUNT = "lab"


def up(wanted: Mapping[str, Any]) -> None:
    """Bring the cluster up, or to what is wanted now."""
    check_packages("slurm")
    state = wanted_state()
    refuse_foreign(state)
    before = saved_cluster(state)
    settings = Settings(**{**(asdict(before.settings) if before else {}), **wanted})
    if before and before.settings.slurm != settings.slurm:
        raise Failure(
            f"The cluster in {state} is one of Slurm {before.settings.slurm}, and its database and "
            f"state stay so.\nMake it anew (`down --purge` first), or choose another state folder."
        )
    check_authentication(settings, before)
    provide(settings.slurm)
    if settings.runtime == "kubernetes":
        kubernetes_up()
    make_folder(state)
    check_traversable(state)
    with exclusive(state):
        slot = claim_slot(state, before.slot if before else None)
        cluster = Cluster(state, slot, settings)
        with Steps() as steps:
            if before and before.differs_for_slurm(cluster):
                steps.run("old options", functools.partial(_stop_work, before))
            cluster.save()
            make_folders(cluster)
            write_configuration(cluster)
            make_devices(cluster)
            _start_everything(cluster, steps)
            _report(cluster, steps.elapsed_s)


def _stop_work(cluster: Cluster) -> str:
    """End everything that other options would change; the database and munge stay."""
    pod_ids = pods(cluster)
    said = stop_slurm(cluster)
    remove_leftovers(cluster, pod_ids)
    return f"jobs: {said}"


def _start_everything(cluster: Cluster, steps: Steps) -> None:
    """Start what is not up, each as soon as what it needs is there."""
    installed = steps.start("sbridge", functools.partial(_install, cluster))
    users = steps.start("users", make_users)
    auth = steps.start(*authenticator(cluster))
    storage = steps.start("mariadbd", functools.partial(_start_database, cluster))
    images = steps.start("images", functools.partial(_make_images, cluster))
    steps.finish(auth, storage, users)
    steps.run("slurmdbd", slurmdbd(cluster).up)
    steps.finish(installed)  # slurm.conf includes two of its files
    steps.run("accounts", functools.partial(_make_accounts, cluster))
    if cluster.settings.runtime == "kubernetes":
        steps.run("kubernetes", functools.partial(prepare_namespace, cluster))
    agents = [steps.start(f"agent {node}", agent(cluster, node).up) for node in cluster.nodes]
    steps.run("slurmctld", slurmctld(cluster).up)
    _forget_killed_jobs(cluster)
    nodes = [steps.start(f"slurmd {node}", slurmd(cluster, node).up) for node in cluster.nodes]
    front_door = steps.start("watcher", watcher(cluster).up)
    steps.finish(*nodes)
    steps.run("nodes", functools.partial(_wait_for_nodes, cluster))
    steps.finish(*agents, front_door, images)


def _install(cluster: Cluster) -> str:
    command = [
        str(SCRIPTS / "install"),
        *("--prefix", str(cluster.prefix)),
        *("--config", str(cluster.etc / "sbridge.toml")),
        *("--run-dir", str(cluster.run / "agent")),
        *("--cache", str(CACHE)),
        *("--slurm-bin", str(programs(cluster.settings.slurm))),
    ]
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    kept |= {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
    kept |= {"HOME": "/root", "PATH": search_path(cluster.settings.slurm)}
    return call(command, kept, timeout_s=900).strip()


def _start_database(cluster: Cluster) -> str:
    if not (cluster.state / "db" / "mysql").is_dir():
        call(
            [
                "mariadb-install-db",
                f"--defaults-file={cluster.etc}/mariadb.cnf",
                "--user=mysql",
                "--skip-test-db",
                "--auth-root-authentication-method=socket",
            ]
        )
    return database(cluster).up()


def _make_accounts(cluster: Cluster) -> str:
    """Make the cluster, the account and the users' associations in slurmdbd."""
    name = CLUSTER_NAME
    environment = cluster.slurm_environment
    listing = call(
        ["sacctmgr", "-nP", "list", "assoc", "format=cluster,account,user"], environment
    ).splitlines()
    if not any(line.startswith(f"{name}|") for line in listing):
        call(["sacctmgr", "-iQ", "add", "cluster", name], environment)
    if f"{name}|{ACCOUNT}|" not in listing:
        call(["sacctmgr", "-iQ", "add", "account", ACCOUNT, f"cluster={name}"], environment)
    missing = [user for user in USERS if f"{name}|{ACCOUNT}|{user}" not in listing]
    if missing:
        users = ",".join(missing)
        call(
            ["sacctmgr", "-iQ", "add", "user", users, f"account={ACCOUNT}", f"cluster={name}"],
            environment,
        )
    return f"account {ACCOUNT}: {', '.join(USERS)}"


def _make_images(cluster: Cluster) -> str:
    if cluster.settings.runtime == "host":
        return "none wanted"
    command = [str(SCRIPTS / "make-images"), *cluster.podman]
    return call(command, cluster.podman_environment).strip().replace("\n", " ")


def _forget_killed_jobs(cluster: Cluster) -> None:
    """Cancel the jobs that the last `down` had to kill behind slurmctld's back."""
    if cluster.killed_jobs.exists():
        cancel_jobs(cluster)
        cluster.killed_jobs.unlink()


def _wait_for_nodes(cluster: Cluster) -> str:
    """Wait until slurmctld has heard from every node; a node may be drained on purpose."""

    def states() -> dict[str, str]:
        rows = slurm(cluster, "sinfo", "-h", "-N", "-o", "%N %t").stdout.split("\n")
        return dict(row.split() for row in rows if row)

    def all_heard() -> bool:
        now = [states().get(node, "unk") for node in cluster.nodes]
        return not any(state.startswith(("unk", "down")) or state.endswith("*") for state in now)

    if "unk" in states().values():
        # A restarted slurmctld would ask slurmds that were up before only in some seconds.
        slurm(cluster, "scontrol", "reconfigure")
    if not wait_until(all_heard, START_TIMEOUT_S):
        reasons = slurm(cluster, "sinfo", "-R", "-N").stdout
        raise Failure(f"slurmctld does not hear from every node: {states()}\n{reasons}")
    return " ".join(f"{node} {state}" for node, state in sorted(states().items()))


def _report(cluster: Cluster, elapsed_s: float) -> None:
    state = "" if str(cluster.state) == DEFAULT_STATE else f"SBRIDGE_DEV_STATE={cluster.state} "
    print(f"""Up in {elapsed_s:.1f} s: {" ".join(cluster.nodes)}, state in {cluster.state}
  eval "$({state}scripts/dev-cluster env)"     then sbatch, squeue, sinfo, sbridge work here
  {state}scripts/dev-cluster as alice sbatch job.sh
  {state}scripts/dev-cluster down""")
