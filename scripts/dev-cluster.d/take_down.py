"""`down`: end everything, look whether anything is left, and say so."""

import functools
import subprocess
import time

from authentication import remove_sockets
from cluster import Cluster, saved_cluster, wanted_state
from commands import Failure, wait_until
from daemon import recorded, stop_all, stop_recorded
from files import exclusive
from leftovers import leftovers, pods, remove_leftovers
from machine import release
from processes import STOP_TIMEOUT_S
from roster import BASE_DAEMONS, slurm
from steps import Steps


def down(purge: bool) -> None:
    """End everything of the cluster; with `purge` remove its files too."""
    state = wanted_state()
    cluster = saved_cluster(state)
    if cluster is None:
        print(f"There is no cluster in {state}.")
        return
    with exclusive(state):
        pod_ids = pods(cluster)
        with Steps() as steps:
            steps.run("jobs", functools.partial(stop_slurm, cluster))
            steps.run("leftovers", functools.partial(remove_leftovers, cluster, pod_ids))
            steps.run("daemons", functools.partial(_stop_base, cluster))
        if left := leftovers(cluster, pod_ids):
            raise Failure("These are still there:\n" + "\n".join(f"    {item}" for item in left))
        removed = release(cluster)
        if purge:
            subprocess.run(["rm", "-rf", "--one-file-system", state], check=True)  # of any depth
    users = f", users removed: {' '.join(removed)}" if removed else ""
    kept = "removed" if purge else f"kept in {state} (`down --purge` removes it)"
    print(f"Down, nothing left behind{users}; state {kept}.")


def stop_slurm(cluster: Cluster) -> str:
    """End the jobs, Slurm's daemons and sbridge's; the database and munge may stay."""
    records = cluster.run / "daemons"
    stop_recorded(records / "watcher.json")
    said = _end_jobs(cluster)
    stop_all([record for record in records.iterdir() if record.stem not in BASE_DAEMONS])
    return said


def _end_jobs(cluster: Cluster) -> str:
    """Cancel every job and wait until their Epilogs are over, for as long as Slurm answers."""
    cluster.killed_jobs.touch()
    if not recorded(cluster.run / "daemons/slurmctld.json"):
        return "slurmctld was down"
    seen: set[str] = set()

    def none_left() -> bool:
        jobs = cancel_jobs(cluster)
        seen.update(jobs)
        time.sleep(0.1 if jobs else 0)
        return not jobs

    if wait_until(none_left, STOP_TIMEOUT_S):
        cluster.killed_jobs.unlink()
    return f"{len(seen)} cancelled" if seen else "none"


def cancel_jobs(cluster: Cluster) -> set[str]:
    """Cancel the jobs that slurmctld knows of now, and return them."""
    jobs = set(slurm(cluster, "squeue", "-h", "-a", "-o", "%A").stdout.split())
    if jobs:
        slurm(cluster, "scancel", *sorted(jobs))
    return jobs


def _stop_base(cluster: Cluster) -> str:
    """Stop what the rest stood on, and remove the sockets' names."""
    records = cluster.run / "daemons"
    stopped = [name for name in BASE_DAEMONS if stop_recorded(records / f"{name}.json")]
    for path in (*cluster.run.rglob("*"), *(cluster.state / "spool").rglob("*")):
        if path.is_socket():
            path.unlink(missing_ok=True)
    remove_sockets(cluster)
    return " ".join(stopped) or "none was up"
