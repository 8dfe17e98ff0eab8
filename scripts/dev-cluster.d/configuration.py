"""Every configuration file and folder of a cluster; the texts are in templates/."""

import json
import resource
import shutil
import socket
import string
import tomllib
from collections.abc import Iterable
from pathlib import Path

import gpus
from authentication import auth_lines, write_key
from cluster import ADDRESS, CLUSTER_NAME, Cluster
from files import make_folder, write
from kubernetes import agent_kubeconfig, cpus_per_node, namespace, node_names
from release import plugins, programs

TEMPLATES = Path(__file__).resolve().parent / "templates"
CPUS_PER_NODE = 4
MEMORY_PER_NODE_MIB = 2000


def write_configuration(cluster: Cluster) -> None:
    """Write every configuration file from its template."""
    values = _template_values(cluster)
    for template in sorted(TEMPLATES.iterdir()):
        text = string.Template(template.read_text()).substitute(values)
        if template.name == "sbridge.toml" and cluster.settings.sbridge:
            text = _with_settings(text, cluster.settings.sbridge)
        secret = template.name == "slurmdbd.conf"  # slurmdbd insists
        write(cluster.etc / template.name, text, *((0o600, "slurm") if secret else ()))
    _link(cluster.etc / "job_submit.lua", cluster.prefix / "share/slurm-conf/job_submit.lua")
    _link(cluster.sbridge_slurm_conf, cluster.slurm_conf)
    write_key(cluster)


def _with_settings(text: str, settings: Iterable[str]) -> str:
    """Return sbridge.toml with other values in it; what TOML and JSON write alike will do."""
    tables = tomllib.loads(text)
    for setting in settings:
        name, _, value = setting.partition("=")
        table, _, key = name.partition(".")
        tables.setdefault(table, {})[key] = tomllib.loads(f"value = {value}")["value"]
    lines = [
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for table, keys in tables.items()
    ]
    return "\n".join(lines)


def _link(path: Path, target: Path) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def _template_values(cluster: Cluster) -> dict[str, str]:
    runtime = cluster.settings.runtime
    allowed = {
        "host": ["host"],
        "podman": ["podman", "host"],
        "kubernetes": ["kubernetes", "podman", "host"],
    }
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    nproc = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return {
        "state": str(cluster.state),
        "prefix": str(cluster.prefix),
        "nas": str(cluster.nas),
        "cluster_name": CLUSTER_NAME,
        "address": ADDRESS,
        "slurmctld_port": str(cluster.slurmctld_port),
        "slurmdbd_port": str(cluster.slurmdbd_port),
        "slurm_bin": str(programs(cluster.settings.slurm)),
        "plugin_dir": _plugin_dir(cluster.settings.slurm),
        "sbridge_slurm_conf": str(cluster.sbridge_slurm_conf),
        **auth_lines(cluster),
        "database_socket": str(cluster.database_socket),
        "cgroup_plugin": _cgroup_plugin(),
        "proctrack": cluster.settings.proctrack,
        "communication": _communication(),
        "gpus": gpus.gres_conf(cluster),
        "gpu_devices": json.dumps(gpus.patterns(cluster)),
        "nodes": _node_lines(cluster),
        "runtime": runtime,
        "allowed_runtimes": json.dumps(allowed[runtime]),
        "kubeconfig": str(agent_kubeconfig(cluster)),
        "kubernetes_namespace": namespace(cluster),
        "kubernetes_nodes": json.dumps(node_names(cluster) if runtime == "kubernetes" else []),
        "podman_options": json.dumps(cluster.podman_options),
        "nofile": str(1048576 if nofile < 0 else min(nofile, 1048576)),
        "nproc": str(32768 if nproc < 0 else min(nproc, 32768)),
    }


def _node_lines(cluster: Cluster) -> str:
    is_on_pods = cluster.settings.runtime == "kubernetes"
    cpus = cpus_per_node(cluster) if is_on_pods else CPUS_PER_NODE
    gres = f" Gres=gpu:{cluster.settings.gpus}" if cluster.settings.gpus else ""
    return "\n".join(
        f"NodeName={node} NodeHostname=localhost"
        f" NodeAddr={ADDRESS} Port={cluster.node_port(node)} State=UNKNOWN"
        f" CPUs={cpus} RealMemory={MEMORY_PER_NODE_MIB}{gres}"
        for node in cluster.nodes
    )


def _plugin_dir(release: str) -> str:
    folder = plugins(release)
    return f"PluginDir={folder}" if folder else "# PluginDir is the installed Slurm's own."


def _communication() -> str:
    """Have every daemon and srun listen on the loopback only, where this machine lets them.

    slurmctld is told that its host is localhost (NoCtldInAddrAny), and so is slurmd
    (NoInAddrAny); but that one also has srun listen where the machine's own name leads, and
    answers come to ADDRESS.
    """
    try:
        is_local = socket.gethostbyname(socket.gethostname()) == ADDRESS
    except OSError:
        is_local = False
    return "NoCtldInAddrAny,NoInAddrAny" if is_local else "NoCtldInAddrAny"


def _cgroup_plugin() -> str:
    """Return the line that helps Slurm where it would not find out what this machine has."""
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "# Slurm does not recognise every hybrid hierarchy.\nCgroupPlugin=cgroup/v1"
    if not Path("/run/systemd/system").is_dir():
        return "# There is no systemd here to ask for cgroups.\nIgnoreSystemd=yes"
    return ""


def make_folders(cluster: Cluster) -> None:
    """Make every folder with the owner that its daemon runs as."""
    for path in (cluster.etc, cluster.run, cluster.log, cluster.run / "munge", cluster.prefix):
        make_folder(path)
    make_folder(cluster.run / "db", 0o750, "mysql", "slurm")
    make_folder(cluster.state / "db", 0o700, "mysql")
    make_folder(cluster.state / "spool/slurmctld", 0o700, "slurm")
    for node in cluster.nodes:
        make_folder(cluster.state / f"spool/slurmd-{node}")
        make_folder(cluster.state / f"tmp/{node}", 0o1777)
    for name in ("slurmctld", "slurmdbd"):
        log = cluster.log / f"{name}.log"
        log.touch()
        shutil.chown(log, "slurm", "slurm")
    make_folder(cluster.run / "slurm", 0o755, "slurm")
    for name in ("slurm-jobs/submit", "slurm-jobs/processed", "slurm-jobs/failed", "results"):
        make_folder(cluster.nas / name, 0o1777)
