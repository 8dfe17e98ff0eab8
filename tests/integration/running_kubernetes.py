"""What tests do with a running Kubernetes of scripts/kubernetes, and to its daemons."""

import json
import os
import re
import signal
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.integration.running_cluster import (
    CGROUPS,
    REPOSITORY,
    Completed,
    checked,
    run,
    wait_for,
)

IMAGES = "nas-hub.local:5407"


@dataclass(frozen=True)
class Kubernetes:
    """A cluster in its state folder; `script` is the scripts/kubernetes that manages it."""

    state: Path
    script: Path = REPOSITORY / "scripts" / "kubernetes"

    # --- scripts/kubernetes ---

    def command(
        self, *argv: str, environment: dict[str, str] | None = None, timeout: float = 120
    ) -> Completed:
        """Run scripts/kubernetes with these arguments."""
        variables = {"SBRIDGE_K8S_STATE": str(self.state), **(environment or {})}
        return run([str(self.script), *argv], environment=variables, timeout=timeout)

    def up(self, **options: object) -> str:
        """Bring it up, or to other options; return what was printed."""
        words = [f"--{name}={value}" for name, value in options.items()]
        return checked(self.command("up", *words, timeout=2400))

    @property
    def environment(self) -> dict[str, str]:
        """What `env` prints, and PATH with kubectl in it."""
        lines = checked(self.command("env"))
        found = dict(re.findall(r"^export (\w+)=(\S+)$", lines, re.MULTILINE))
        return {**found, "PATH": f"{self._programs}:{os.environ['PATH']}"}

    @property
    def _programs(self) -> str:
        return str(self._saved["programs"])

    @property
    def _saved(self) -> dict[str, Any]:
        saved: dict[str, Any] = json.loads((self.state / "cluster.json").read_text())
        return saved

    @property
    def nodes(self) -> list[str]:
        first = 100 * int(self._saved["slot"]) + 1
        return [f"k{number}" for number in range(first, first + self._saved["nodes"])]

    @property
    def bridge(self) -> str:
        """The interface that its pods are on."""
        return f"sbridge-pods{self._saved['slot']}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "etc/admin.kubeconfig"

    @property
    def server(self) -> str:
        """The API's URL."""
        found = re.search(r"server: (\S+)", self.kubeconfig.read_text())
        assert found
        return found[1]

    @property
    def logs(self) -> Path:
        return self.state / "log"

    # --- kubectl ---

    def try_kubectl(self, *argv: str, input: str | None = None) -> Completed:  # noqa: A002
        """Run kubectl as the administrator; its failure may be the answer."""
        variables = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": f"{self.state}/kubectl"}
        argv = (f"{self._programs}/kubectl", *argv)
        return run(argv, input=input, environment=variables, timeout=60)

    def kubectl(self, *argv: str, input: str | None = None) -> str:  # noqa: A002
        """Run kubectl as the administrator and return what it printed."""
        return checked(self.try_kubectl(*argv, input=input))

    def read(self, path: str, **query: str) -> dict[str, Any]:
        """Return what the API has at a path, at a twentieth of what kubectl costs."""
        pki = self.state / "etc/pki"
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        url = f"{self.server}{path}?{urlencode(query)}"
        with urlopen(url, timeout=30, context=context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def get(self, *argv: str) -> dict[str, Any]:
        """Return an object or a list of the API."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *argv, "--output=json"))
        return found

    def run_pod(self, name: str, image: str, *command: str, node: str = "") -> None:
        """Make a pod that runs a command (else what its image is for) on one of the nodes."""
        node = node or self.nodes[0]
        container: dict[str, Any] = {"name": "main", "image": f"{IMAGES}/{image}:latest"}
        if command:
            container["command"] = list(command)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        }
        self.kubectl("create", "--filename=-", input=json.dumps(pod))

    def phase(self, pod: str) -> str:
        found = self.read(f"/api/v1/namespaces/default/pods/{pod}")
        return str(found["status"].get("phase", ""))

    def wait_pod(self, pod: str, phase: str, timeout: float = 30) -> None:
        """Wait until a pod is in this phase."""
        wait_for(lambda: self.phase(pod) == phase, timeout, f"pod {pod} {phase}")

    def remove_pods(self, *names: str) -> None:
        self.kubectl("delete", "pod", "--ignore-not-found", "--force", "--grace-period=0", *names)

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests that the API server has audited."""
        lines = (self.logs / "audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    # --- The daemons and the kernel ---

    def pids(self) -> dict[str, int]:
        """Return the daemons' pids: etcd, registry, kube-apiserver, kubelet-<node>, …"""
        records = (self.state / "run/daemons").glob("*.json")
        return {path.stem: json.loads(path.read_text())["pid"] for path in records}

    def kill(self, *daemons: str) -> None:
        """Kill daemons as if they had crashed; `up` brings them back."""
        for daemon in daemons:
            os.kill(self.pids()[daemon], signal.SIGKILL)

    def pod_processes(self, pod: str) -> set[int]:
        """Return the processes of a pod, its pause process among them, by its cgroup."""
        uid = self.get("pod", pod)["metadata"]["uid"]
        top = CGROUPS / "pids" if (CGROUPS / "pids").is_dir() else CGROUPS
        files = top.glob(f"sbridge-*/**/pod{uid}/**/cgroup.procs")
        return {int(pid) for path in files for pid in path.read_text().split()}
