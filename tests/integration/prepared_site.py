"""A site in a running Kubernetes: its configuration, its namespace, and the commands for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bridge import config_file
from bridge.config import Config
from bridge.runtimes.kubernetes.api import Api
from tests.integration.running_cluster import REPOSITORY, Completed, checked, run, wait_for
from tests.integration.running_kubernetes import Kubernetes

SLURM_NODE = "n1"
USER = "nobody"


def remove_site(kubernetes: Kubernetes, namespace: str) -> None:
    """Remove what `apply` made for a site, but for the PriorityClass, which others share."""
    remove_user_namespaces(kubernetes, namespace)
    _remove_policies(kubernetes, f"sbridge-pods.{namespace}")
    kubernetes.kubectl("delete", "namespace", namespace)


def remove_user_namespaces(kubernetes: Kubernetes, namespace: str) -> None:
    """Remove what `kubernetes.user_namespaces` has added to a site."""
    selector = f"--selector=sbridge/site={namespace}"
    kubernetes.kubectl("delete", "namespace", "--wait=false", selector)
    roles = "clusterrolebinding,clusterrole"
    kubernetes.kubectl("delete", "--ignore-not-found", roles, f"sbridge-agent.{namespace}")
    kinds = ("user-pods", "agents", "namespaces")
    _remove_policies(kubernetes, *(f"sbridge-{kind}.{namespace}" for kind in kinds))


def _remove_policies(kubernetes: Kubernetes, *names: str) -> None:
    kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding"
    kubernetes.kubectl("delete", "--ignore-not-found", kinds, *names)


@dataclass(frozen=True)
class PreparedSite:
    """One namespace with what sbridge needs in it; there is no Slurm."""

    kubernetes: Kubernetes
    folder: Path
    namespace: str
    user_namespaces: bool = False

    @property
    def config_file(self) -> Path:
        return self.folder / "sbridge.toml"

    @property
    def agent_kubeconfig(self) -> Path:
        return self.folder / "agent.kubeconfig"

    @property
    def config(self) -> Config:
        return config_file.load(self.config_file)

    def write_config(self, **sandbox: object) -> None:
        """Write the configuration, with these settings of [sandbox]."""
        settings = {"mounts": ["/home"], **sandbox}
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        self.config_file.write_text(
            f'[agent]\nspool_dir = "{self.folder}/spool"\nruntime = "kubernetes"\n'
            f'[slurm]\nbin_dir = "{self.folder}"\n'
            "[sandbox]\n" + "\n".join(lines) + "\n"
            f'[kubernetes]\nnamespace = "{self.namespace}"\n'
            f"user_namespaces = {json.dumps(self.user_namespaces)}\n"
            f'kubeconfig = "{self.agent_kubeconfig}"\n'
            f'node_names = ["{SLURM_NODE}={self.kubernetes.nodes[0]}"]\n'
        )

    def prepare(self, **sandbox: object) -> None:
        """Do what an administrator does: two commands."""
        self.write_config(**sandbox)
        checked(self.sbridge("kubernetes", "apply"))
        self.renew_credentials()
        wait_for(self._refuses_strange_pods, what="the policy is in force")

    def _refuses_strange_pods(self) -> bool:
        container = {"name": "a", "image": "a"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
        text = json.dumps({**pod, "spec": {"containers": [container]}})
        made = self.kubectl("create", "--dry-run=server", "--filename=-", input=text)
        return "ValidatingAdmissionPolicy" in made.stderr

    def remove(self) -> None:
        """Remove what `apply` made, but for the PriorityClass, which other sites share."""
        remove_site(self.kubernetes, self.namespace)

    def renew_credentials(self) -> None:
        checked(self.sbridge("kubernetes", "kubeconfig", f"--output={self.agent_kubeconfig}"))

    def _argv(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "bridge.cli", *argv]

    def _environment(self, *, is_administrator: bool) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        own = {"KUBECONFIG": str(self.kubernetes.kubeconfig)} if is_administrator else {}
        return {
            **kept,
            **own,
            "SBRIDGE_CONFIG": str(self.config_file),
            "PYTHONPATH": REPOSITORY.as_posix(),
        }

    def sbridge(self, *argv: str, is_administrator: bool = True) -> Completed:
        """Run the command line, with an administrator's or the agent's credentials."""
        environment = self._environment(is_administrator=is_administrator)
        if not is_administrator:
            environment["KUBECONFIG"] = ""
        return run(self._argv(*argv), environment=environment)

    def interrupted(
        self, *argv: str, number: signal.Signals, when: Callable[[], object]
    ) -> Completed:
        """Run the command line and send it a signal as soon as something is true."""
        process = subprocess.Popen(
            self._argv(*argv),
            env=self._environment(is_administrator=True),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(when, what="what the signal waits for")
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        return Completed(argv, process.returncode, stdout, stderr)

    @property
    def agent(self) -> Api:
        """The cluster with the agent's credentials."""
        return Api(self.config.kubernetes)

    def path(self, what: str) -> str:
        """Return the API's path of something in the namespace."""
        return f"/api/v1/namespaces/{self.namespace}/{what}"

    def kubectl(self, *argv: str, input: str | None = None) -> Completed:  # noqa: A002
        """Run kubectl as the administrator, in the namespace."""
        return self.kubernetes.try_kubectl(f"--namespace={self.namespace}", *argv, input=input)

    def pods(self) -> list[str]:
        """Return the names of the pods that are there."""
        names = checked(self.kubectl("get", "pods", "--output=name"))
        return [name.removeprefix("pod/") for name in names.split()]

    def printed_pod(self, *options: str) -> dict[str, Any]:
        """Return what `sbridge kubernetes pod` prints."""
        argv = ["kubernetes", "pod", f"--node={SLURM_NODE}", f"--user={USER}", *options]
        made: dict[str, Any] = yaml.safe_load(checked(self.sbridge(*argv)))
        return made
