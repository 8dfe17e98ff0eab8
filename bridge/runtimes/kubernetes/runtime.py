"""Sandboxes as pods: create one, wait for it by the one watch, and make it really gone.

A pod is placed by the cluster's scheduler, which may choose this node only, so cordons,
taints and what else is in Kubernetes' books count. It runs when the kubelet said so and its
first process is found on this node. At the end the processes are killed here, which is
true at once, and then the pod's object is removed; while the API is away that is remembered.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge.config import Kubernetes
from bridge.durable import write_atomically
from bridge.errors import SbridgeError, TemporaryError
from bridge.job_spool import JobSpool
from bridge.runtimes import manifest
from bridge.runtimes.kubernetes.api import Api, RefusedError
from bridge.runtimes.kubernetes.phases import Phases
from bridge.runtimes.kubernetes.pod_removal import PodRemoval
from bridge.runtimes.kubernetes.pod_scope import PodScope
from bridge.runtimes.kubernetes.pod_start import PodStart
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox, SandboxSpec, UserError, Waiter


class KubernetesRuntime:
    """The pods of one Slurm node's agent.

    A pod of another node is a stray when it is older than `stray_age_s`. A job waits
    `patience_s` for its pod at most. `on_ended` is called with the name of each pod that ends,
    whoever ended it, and the reason in Kubernetes' words.
    """

    def __init__(
        self,
        settings: Kubernetes,
        node: str,
        stray_age_s: float,
        patience_s: float,
        log: Any,
        on_ended: Callable[[str, str], None],
    ) -> None:
        self._stray_age = timedelta(seconds=stray_age_s)
        self._node = node
        self._site = manifest.Site.of(settings, node)
        self._api = Api(settings)
        self._scope = PodScope(self._api, settings)
        self._watch = PodWatch(self._api, self._scope, manifest.selector(node), log, on_ended)
        self._phases = Phases(self._api, node, log)
        self._removal = PodRemoval(self._api, settings.namespace, self._watch, log)
        self._start = PodStart(
            self._api, settings.namespace, self._watch, self._removal, patience_s
        )
        self._strays: dict[str, list[str]] = {}  # the paths of those that were found last
        self._watch.start()
        self._phases.start()
        self._removal.start()

    def start(self, spec: SandboxSpec, spool: JobSpool, waiter: Waiter) -> Sandbox:
        """Create the pod and wait until it runs."""
        if spec.uid == 0:
            raise UserError("jobs of root run in no pod; submit as an ordinary user")
        wanted = manifest.pod(spec, self._site)
        content = json.dumps(wanted, indent=1).encode()
        write_atomically(spool.manifest, content, survives_power_loss=False)
        pod = self._start.create(wanted, waiter)
        try:
            sandbox = self._start.sandbox(pod, waiter)
        except BaseException as error:
            if isinstance(error, SbridgeError):
                self._phases.say(pod, "SandboxFailed", error.message, warning=True)
            self.remove(spec.name, None)
            raise
        text = f"Slurm job {spec.run.job_id} of {spec.user} may begin"
        self._phases.say(pod, "SandboxReady", text)
        return sandbox

    def remove(self, name: str, sandbox: Sandbox | None = None) -> None:
        """Free the node at once; the pod's object goes when the API lets us."""
        pods = self._watch.pods(name) if sandbox is not None else []
        self._removal.remove(name, sandbox)
        for pod in pods:
            self._phases.say(pod, "SandboxRemoved", "The Slurm job is over on this node")

    def check(self) -> None:
        """See nothing wrong: an agent's role tells it nothing of nodes.

        A kubelet that is still dead shows at the next sandbox, and the node's rests grow.
        """

    def names(self) -> set[str]:
        """Return the pods with this node's label, as the watch knows them."""
        return self._watch.names()

    def strays(self) -> set[str]:
        """Return old pods of other Slurm nodes, whose agents may be dead."""
        oldest = (datetime.now(UTC) - self._stray_age).strftime("%Y-%m-%dT%H:%M:%SZ")
        selector = manifest.foreign_selector(self._node)
        try:
            answer = self._api.get(self._scope.path, labelSelector=selector, resourceVersion="0")
        except RefusedError as error:
            raise TemporaryError(f"other nodes' pods cannot be listed: {error.message}") from error
        metadata = [pod["metadata"] for pod in filter(self._scope.covers, answer["items"])]
        self._strays = {}
        for pod in metadata:
            if pod["creationTimestamp"] < oldest and not pod.get("deletionTimestamp"):
                path = f"/api/v1/namespaces/{pod['namespace']}/pods/{pod['name']}"
                self._strays.setdefault(pod["name"], []).append(path)
        return set(self._strays)

    def remove_stray(self, name: str) -> None:
        """Ask for its deletion; its own kubelet does it, and so says that it is done."""
        try:
            for path in self._strays.get(name, []):
                self._api.delete(path)
        except RefusedError as error:
            raise TemporaryError(f"stray pod {name} cannot be deleted: {error.message}") from error
