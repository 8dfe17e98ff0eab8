"""The daemons of a cluster: how each is started, and how one sees that it works."""

import subprocess
from pathlib import Path

from cluster import Cluster
from commands import attempt
from daemon import Daemon, accepts
from ports import listening_ports
from release import INSTALLED, programs

# What the rest stands on, in the order in which it is stopped.
BASE_DAEMONS = ("slurmdbd", "mariadbd", "munged")


def munge(cluster: Cluster) -> Daemon:
    """Return munged, with a key of this cluster's own."""
    key = cluster.etc / "munge.key"
    argv = [
        "munged",
        "--foreground",
        f"--key-file={key}",
        f"--socket={cluster.munge_socket}",
        f"--pid-file={cluster.run}/munge/munged.pid",
        f"--seed-file={cluster.run}/munge/munged.seed",
        "--num-threads=2",
    ]
    path = cluster.munge_socket
    return Daemon(cluster, "munged", argv, lambda: accepts(path), [key], address=str(path))


def database(cluster: Cluster) -> Daemon:
    """Return MariaDB, which listens on a unix socket only."""
    conf = cluster.etc / "mariadb.cnf"
    argv = ["mariadbd", f"--defaults-file={conf}"]
    path = cluster.database_socket
    return Daemon(cluster, "mariadbd", argv, lambda: accepts(path), [conf], address=str(path))


def slurmdbd(cluster: Cluster) -> Daemon:
    """Return slurmdbd; it opens its port after it has seen the database."""
    return Daemon(
        cluster,
        "slurmdbd",
        _on_localhost(_as_slurm(["slurmdbd", "-D"])),
        lambda: cluster.slurmdbd_port in listening_ports(),
        [cluster.etc / "slurmdbd.conf"],
        {"MYSQL_UNIX_PORT": str(cluster.database_socket)},
        address=f"port {cluster.slurmdbd_port}",
    )


def slurmctld(cluster: Cluster) -> Daemon:
    """Return slurmctld, run by Slurm's own user as on a real cluster."""
    return Daemon(
        cluster,
        "slurmctld",
        _on_localhost(_as_slurm(["slurmctld", "-D"])),
        lambda: "is UP" in slurm(cluster, "scontrol", "ping").stdout,
        _slurm_inputs(cluster),
        address=f"port {cluster.slurmctld_port}",
    )


def slurmd(cluster: Cluster, node: str) -> Daemon:
    """Return the slurmd of one node."""
    return Daemon(
        cluster,
        f"slurmd-{node}",
        ["slurmd", "-D", "-N", node, *_stepd(cluster)],
        lambda: cluster.node_port(node) in listening_ports(),
        [*_slurm_inputs(cluster), cluster.etc / "cgroup.conf"],
        address=f"port {cluster.node_port(node)}",
    )


def agent(cluster: Cluster, node: str) -> Daemon:
    """Return the agent of one node."""
    config = cluster.etc / "sbridge.toml"
    return Daemon(
        cluster,
        f"agent-{node}",
        [f"{cluster.prefix}/bin/sbridge-agent", "--config", str(config), "--node", node],
        lambda: accepts(cluster.agent_socket(node)),
        [config, cluster.containers_conf, cluster.prefix / ".installed"],
        notifies=True,
        address=str(cluster.agent_socket(node)),
    )


def watcher(cluster: Cluster) -> Daemon:
    """Return the watcher."""
    config = cluster.etc / "sbridge.toml"
    argv = [f"{cluster.prefix}/bin/sbridge-watcher", "--config", str(config)]
    inputs = [config, cluster.prefix / ".installed"]
    submit = str(cluster.nas / "slurm-jobs/submit")
    return Daemon(cluster, "watcher", argv, inputs=inputs, notifies=True, address=submit)


def all_daemons(cluster: Cluster) -> list[Daemon]:
    """Return every daemon, in the order in which they depend on each other."""
    parts = [munge(cluster)] if cluster.settings.auth == "munge" else []
    parts += [database(cluster), slurmdbd(cluster), slurmctld(cluster)]
    parts += [slurmd(cluster, node) for node in cluster.nodes]
    return [*parts, *(agent(cluster, node) for node in cluster.nodes), watcher(cluster)]


def _as_slurm(argv: list[str]) -> list[str]:
    return ["setpriv", "--reuid=slurm", "--regid=slurm", "--init-groups", "--", *argv]


def _stepd(cluster: Cluster) -> list[str]:
    """Name slurmstepd where slurmd would take the installed one."""
    if cluster.settings.slurm == INSTALLED:
        return []
    return ["-d", str(programs(cluster.settings.slurm) / "slurmstepd")]


def _on_localhost(argv: list[str]) -> list[str]:
    """Let a daemon that listens where the machine's name leads listen on the loopback."""
    return ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh", *argv]


def _slurm_inputs(cluster: Cluster) -> list[Path]:
    # job_submit.lua is not among them: slurmctld reads it again by itself.
    own = [cluster.slurm_conf, cluster.etc / "gres.conf"]
    return [*own, *sorted((cluster.prefix / "share/slurm-conf").glob("*.conf"))]


def slurm(cluster: Cluster, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands in this cluster."""
    return attempt(argv, cluster.slurm_environment)
