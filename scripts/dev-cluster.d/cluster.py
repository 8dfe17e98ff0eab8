"""One cluster: its settings, its paths, and its share of what is global on a machine."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from commands import PATH, Failure
from files import write
from release import INSTALLED, search_path
from state import SAVED, state_folder

DEFAULT_STATE = "/var/tmp/sbridge-dev"  # noqa: S108 -- root's, or `up` refuses it
CLUSTER_NAME = "dev"
ADDRESS = "127.0.0.1"
FIRST_PORT = 20000  # below the kernel's ephemeral ports
PORTS_PER_SLOT = 100
MAX_NODES = 64
MAX_GPUS = 8  # of a node
USERS = ("alice", "bob")
# Set for the daemons only, so that what they started can be told from the user's own shells.
MARK = "SBRIDGE_DEV_CLUSTER"


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for; `sbridge` are lines TABLE.KEY=VALUE for sbridge.toml.

    `gpus` is how many each node pretends to have, `gpu_kind` whether "whole" or "parts" of one.
    """

    nodes: int = 2
    runtime: str = "podman"
    proctrack: str = "cgroup"
    gpus: int = 0
    gpu_kind: str = "whole"
    slurm: str = INSTALLED
    auth: str = "munge"
    sbridge: Sequence[str] = ()


@dataclass(frozen=True)
class Cluster:
    """One cluster: where its files are, and its share of what is global on a machine.

    `slot` tells clusters on the same machine apart: it gives the ports and the nodes' names
    (n1, n2, …; n101, n102, … in slot 1), and with those the cgroups.
    """

    state: Path
    slot: int
    settings: Settings

    @property
    def nodes(self) -> list[str]:
        return slot_nodes(self.slot)[: self.settings.nodes]

    @property
    def slurmctld_port(self) -> int:
        return slot_ports(self.slot)[0]

    @property
    def slurmdbd_port(self) -> int:
        return slot_ports(self.slot)[1]

    @property
    def prefix(self) -> Path:
        return self.state / "prefix"

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
    def nas(self) -> Path:
        return self.state / "nas"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def sbridge_slurm_conf(self) -> Path:
        """The same file by a name that only the agents and the watcher use.

        Their commands get an environment made for them, without MARK: SLURM_CONF marks these.
        """
        return self.etc / "slurm-for-sbridge.conf"

    @property
    def slurm_environment(self) -> dict[str, str]:
        """What leads to this cluster's Slurm, and to the commands of its release."""
        return {"PATH": search_path(self.settings.slurm), "SLURM_CONF": str(self.slurm_conf)}

    @property
    def containers_conf(self) -> Path:
        return self.etc / "containers.conf"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge" / "munge.sock"

    @property
    def database_socket(self) -> Path:
        return self.run / "db" / "mariadbd.sock"

    @property
    def killed_jobs(self) -> Path:
        """Exists when jobs were killed without slurmctld knowing: it was down."""
        return self.state / "killed-jobs"

    def node_port(self, node: str) -> int:
        return slot_ports(self.slot)[2 + self.nodes.index(node)]

    def agent_socket(self, node: str) -> Path:
        return self.run / "agent" / node / "agent.sock"

    @property
    def podman(self) -> list[str]:
        return ["podman", *self.podman_options]

    @property
    def podman_options(self) -> list[str]:
        storage = self.state / "podman"
        return [
            f"--root={storage}/root",
            f"--runroot={storage}/run",
            "--cgroup-manager=cgroupfs",
            # Or the end of each sandbox waits for all that any job has written (docs/admin.md).
            "--storage-opt=overlay.mountopt=volatile",
        ]

    @property
    def podman_environment(self) -> dict[str, str]:
        return {"PATH": PATH, "CONTAINERS_CONF": str(self.containers_conf)}

    @property
    def client_environment(self) -> dict[str, str]:
        """What `env` prints: enough for sbatch, squeue and sbridge to find this cluster."""
        return {
            "SLURM_CONF": str(self.slurm_conf),
            "SBRIDGE_CONFIG": str(self.etc / "sbridge.toml"),
            "SBRIDGE_NAS": str(self.nas),
            "SBRIDGE_LOGS": str(self.log),
            "SBRIDGE_DEV_STATE": str(self.state),
        }

    @property
    def daemon_environment(self) -> dict[str, str]:
        return {
            **self.slurm_environment,
            "LC_ALL": "C.UTF-8",
            MARK: str(self.state),
        }

    def differs_for_slurm(self, other: "Cluster") -> bool:
        """Whether jobs must end on the way from one to the other."""
        settings = replace(other.settings, sbridge=self.settings.sbridge)
        return self != replace(other, settings=settings)

    def save(self) -> None:
        write(self.state / SAVED, json.dumps({"slot": self.slot, **asdict(self.settings)}))


def slot_nodes(slot: int) -> list[str]:
    """Return the names of the nodes that a cluster in this slot may have."""
    return [f"n{100 * slot + number}" for number in range(1, MAX_NODES + 1)]


def slot_ports(slot: int) -> range:
    """Return the ports of a cluster in this slot."""
    first = FIRST_PORT + PORTS_PER_SLOT * slot
    return range(first, first + PORTS_PER_SLOT)


def wanted_state() -> Path:
    """Return the state folder that was asked for."""
    return state_folder("SBRIDGE_DEV_STATE", DEFAULT_STATE)


def saved_cluster(state: Path) -> Cluster | None:
    """Return the cluster that `up` made in `state`, whether it runs or not."""
    try:
        saved = json.loads((state / SAVED).read_text())
    except FileNotFoundError:
        return None
    if "programs" in saved:
        raise Failure(f"{state} holds a cluster of scripts/kubernetes; choose another folder.")
    slot = saved.pop("slot")
    return Cluster(state, slot, Settings(**saved))


def existing_cluster() -> Cluster:
    """Return the saved cluster; without one there is nothing to do."""
    state = wanted_state()
    cluster = saved_cluster(state)
    if cluster is None:
        raise Failure(f"There is no cluster in {state}; `scripts/dev-cluster up` makes one.")
    return cluster
