"""A development cluster whose jobs run as pods, and the Kubernetes below it, which tests break."""

import contextlib
import itertools
import json
import os
import re
import signal
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.running_cluster import CGROUPS, Cluster, Completed, wait_for
from tests.integration.running_kubernetes import IMAGES, Kubernetes

ALPINE = f"{IMAGES}/alpine:latest"  # has no bash
BASH = f"{IMAGES}/bash:latest"
STATIC = f"{IMAGES}/static:latest"  # has no shell
# What a module says whose tests are for pods; see `cluster` in conftest.py.
ON_PODS = [
    pytest.mark.slurm,
    pytest.mark.kubernetes,
    pytest.mark.parametrize(
        "cluster", [{"runtime": "kubernetes"}], indirect=True, ids=[pytest.HIDDEN_PARAM]
    ),
]


@dataclass(frozen=True)
class SlurmOnKubernetes(Cluster):
    """Slurm's nodes share the one node of `kubernetes`, half of its CPUs each."""

    kubernetes: Kubernetes = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "SBRIDGE_K8S_STATE": str(self.kubernetes.state)}

    @property
    def namespace(self) -> str:
        settings = tomllib.loads((self.state / "etc/sbridge.toml").read_text())
        return str(settings["kubernetes"]["namespace"])

    @property
    def kubernetes_node(self) -> str:
        return self.kubernetes.nodes[0]

    # --- The cluster's objects ---

    def kubectl(self, *argv: str, input: str | None = None) -> str:  # noqa: A002
        """Run kubectl as the administrator, in the jobs' namespace."""
        return self.kubernetes.kubectl(f"--namespace={self.namespace}", *argv, input=input)

    def try_kubectl(self, *argv: str, input: str | None = None) -> Completed:  # noqa: A002
        return self.kubernetes.try_kubectl(f"--namespace={self.namespace}", *argv, input=input)

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects of the API, in the jobs' namespace where they belong to one."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("create", "--filename=-", input=text)

    def pods(self, selector: str = "app=slurm-job") -> list[dict[str, Any]]:
        """Return the sandboxes with these labels, as the API has them."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return list(self.kubernetes.read(path, labelSelector=selector)["items"])

    def pod(self, job_id: int) -> dict[str, Any]:
        """Return the one pod of a job."""
        (found,) = self.pods(f"job-id={job_id}")
        return found

    def sandboxes(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods()]

    def events(self, pod: str) -> list[str]:
        """Return the reasons of a pod's events, oldest first."""
        selector = f"--field-selector=involvedObject.name={pod}"
        found = self.kubectl("get", "events", selector, "--output=json")
        items = json.loads(found)["items"]
        items.sort(key=lambda item: item["metadata"]["creationTimestamp"])
        return [item["reason"] for item in items]

    def first_process(self, job_id: int) -> int:
        """Return the pid of the first process of a job's sandbox, as the agent has it."""
        (state,) = self.spool.glob(f"*/jobs/{job_id}.*/state.json")
        return int(json.loads(state.read_text())["sandbox"]["init_pid"])

    def create_pod(self, node: str, job_id: int, **labels: str) -> str:
        """Create the pod that a job would have on a Slurm node; return its name."""
        sbridge = str(self.prefix / "bin/sbridge")
        options = [f"--job-id={job_id}", f"--node={node}", "--user=alice", f"--image={STATIC}"]
        pod = yaml.safe_load(self.as_user("root", [sbridge, "kubernetes", "pod", *options]))
        pod["metadata"]["labels"].update(labels)
        self.create(pod)
        return str(pod["metadata"]["name"])

    # --- The agents ---

    def wait_to_tell(self, node: str, event: str, times: int = 1) -> None:
        """Wait until a node's agent has logged an event so often, from now on."""
        before = len(self.told(node, event))
        what = f"agent of {node} tells {event}"
        wait_for(lambda: len(self.told(node, event)) >= before + times, 60, what)

    def wait_for_idle(self, node: str) -> None:
        """Wait until Slurm may give a node to another job."""
        sinfo = ["sinfo", "-h", "-n", node, "-p", "main", "-o", "%T"]
        wait_for(lambda: self.slurm(*sinfo).split() == ["idle"], what=f"{node} is idle")

    # --- What is left ---

    def pod_cgroups(self) -> list[str]:
        """Return the cgroups of pods on the nodes, whoever made them."""
        top = CGROUPS / "pids" if (CGROUPS / "pids").is_dir() else CGROUPS
        # Not Path.glob: that fails when a folder is removed while it is looked through.
        found = [
            glob(f"{top}/sbridge-{node}/kubepods/**/pod*", recursive=True)
            for node in self.kubernetes.nodes
        ]
        return list(itertools.chain.from_iterable(found))

    def pod_processes(self) -> set[int]:
        """Return the processes of all pods."""
        pids: set[int] = set()
        for cgroup in self.pod_cgroups():
            for file in glob(f"{cgroup}/**/*.procs", recursive=True):
                with contextlib.suppress(OSError):  # it ended meanwhile
                    pids |= {int(pid) for pid in Path(file).read_text().split()}
        return pids

    def sandbox_cgroups(self) -> list[str]:
        """Not Podman's, which are for the whole machine: one without processes may be anybody's."""
        return self.pod_cgroups()

    def leftovers(self) -> list[str]:
        """Return what jobs leave, but for folders that a container runtime made again.

        One that had hung makes what a deleted pod was to mount; no run has such a folder, and
        agents remove it later.
        """
        spooled = re.compile(rf"{re.escape(str(self.spool))}/[^/]+/jobs/[^/]+")
        return [
            thing
            for thing in super().leftovers()
            if not spooled.fullmatch(thing) or Path(thing, "request.json").exists()
        ]

    def wait_until_clean(self) -> None:
        """Wait until no job has left anything and every node may be used."""
        self.wait_until_nothing_is_left()
        assert self.drained_nodes() == {}

    # --- Faults ---

    @contextlib.contextmanager
    def settings(self, *settings: str) -> Iterator[None]:
        """Have the agents work with these settings of sbridge.toml, as TABLE.KEY=VALUE."""
        self.up_with(*settings)
        try:
            yield
        finally:
            self.up_with("")

    def up_with(self, *settings: str) -> None:
        words = [f"--set={setting}" for setting in settings]
        assert self.dev_cluster("up", *words).returncode == 0

    @contextlib.contextmanager
    def dead(self, *daemons: str) -> Iterator[None]:
        """Kill daemons of Kubernetes, and bring them back."""
        self.kubernetes.kill(*(daemon.format(node=self.kubernetes_node) for daemon in daemons))
        try:
            yield
        finally:
            self.kubernetes.up()

    @contextlib.contextmanager
    def tainted(self, taint: str) -> Iterator[None]:
        """Have the Kubernetes node a taint, written as KEY=VALUE:EFFECT."""
        self.kubernetes.kubectl("taint", "node", self.kubernetes_node, taint)
        try:
            yield
        finally:
            self.kubernetes.kubectl("taint", "node", self.kubernetes_node, f"{taint}-")

    @contextlib.contextmanager
    def frozen(self, daemon: str) -> Iterator[None]:
        """Have a daemon of Kubernetes do nothing for a while."""
        pid = self.kubernetes.pids()[daemon.format(node=self.kubernetes_node)]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
