"""The Pod manifest of a sandbox: one pure function, the same for every runtime that plays pods.

The job's script is never in it (Kubernetes rewrites `$$` and `$(NAME)`): the container runs
the init from the node, and Slurm's steps enter it.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from bridge.config import Kubernetes
from bridge.errors import ConfigError
from bridge.runtimes.kubernetes import user_namespace
from bridge.runtimes.sandbox import Mount, SandboxSpec
from bridge.slurm.hostlist import expand_hostlist

INIT_PATH = "/sbridge/init"
CONTAINER = "sandbox"
SHORT_LIVED = "sbridge/short-lived"  # the label of pods that are no jobs' and no agent's to remove

_LABEL_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_LABEL = 63
# Slurm has given this very node to the job, so a kubelet that is silent for some minutes neither
# keeps a pod away nor has the running one thrown out; DaemonSets have the same.
_STAY = tuple(
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists"}
    for state in ("not-ready", "unreachable")
)
_TOLERATION = re.compile(r"(?P<key>[^=:]*)(?:=(?P<value>[^:]*))?(?::(?P<effect>\w+))?")


@dataclass(frozen=True)
class Site:
    """What the site adds to every pod, whatever the job; the defaults add nothing.

    `kubernetes_node` is the only node that the pod may run on, "" for where it is played.
    `users_of` is the site's own namespace where each user has another one, else "".
    """

    pull_policy: str = "IfNotPresent"
    kubernetes_node: str = ""
    priority_class: str = ""
    runtime_class: str = ""
    gpu_runtime_class: str = ""
    gpu_resource: str = ""
    pull_secrets: tuple[str, ...] = ()
    tolerations: tuple[dict[str, str], ...] = field(default=())
    users_of: str = ""

    @classmethod
    def of(cls, settings: Kubernetes, node: str) -> "Site":
        """Return what the configuration says for the Slurm node `node`."""
        return cls(
            pull_policy=settings.image_pull_policy,
            kubernetes_node=kubernetes_node(settings, node),
            priority_class=settings.priority_class,
            runtime_class=settings.runtime_class,
            gpu_runtime_class=settings.gpu_runtime_class,
            gpu_resource=settings.gpu_resource,
            pull_secrets=settings.image_pull_secrets,
            tolerations=tuple(_toleration(text) for text in settings.tolerations),
            users_of=settings.namespace if settings.user_namespaces else "",
        )


def kubernetes_node(settings: Kubernetes, node: str) -> str:
    """Return the Kubernetes node of a Slurm node: the table's, else the one of the same name."""
    for entry in settings.node_names:
        slurm, separator, kubernetes = entry.partition("=")
        if not separator or not kubernetes:
            raise ConfigError(f"kubernetes.node_names: {entry!r} is not SLURM=KUBERNETES")
        try:
            left, right = expand_hostlist(slurm), expand_hostlist(kubernetes)
        except ValueError as error:
            raise ConfigError(f"kubernetes.node_names: {entry!r} is no hostlist") from error
        if len(right) not in (1, len(left)):
            raise ConfigError(
                f"kubernetes.node_names: {entry!r} has {len(left)} names on the left and"
                f" {len(right)} on the right; write as many, or one that they share"
            )
        if node in left:
            return right[left.index(node) if len(right) > 1 else 0]
    return node


def pod(spec: SandboxSpec, site: Site) -> dict[str, Any]:
    """Return the v1 Pod for `spec` at a site."""
    optional: dict[str, Any] = {
        "affinity": affinity(site.kubernetes_node),
        "priorityClassName": site.priority_class,
        "runtimeClassName": (spec.gpus and site.gpu_runtime_class) or site.runtime_class,
        "imagePullSecrets": [{"name": name} for name in site.pull_secrets],
        "tolerations": [*(_STAY if site.kubernetes_node else ()), *site.tolerations],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            **_place(spec, site),
            "labels": labels(spec)
            | ({user_namespace.SITE: site.users_of} if site.users_of else {}),
            "annotations": {"sbridge/user": spec.user, "sbridge/slurm-node": spec.node},
        },
        "spec": {
            "restartPolicy": "Never",
            "hostNetwork": spec.host_network,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            # Not 0: whoever deletes the pod then sees it go when its processes have, not before.
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsUser": spec.uid,
                "runAsGroup": spec.gid,
                "supplementalGroups": list(spec.groups),
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(spec, site)],
            "volumes": [
                # The folders too: not mounted by the runtime, but named, and looked for.
                *(_volume(i, mount) for i, mount in enumerate((*spec.mounts, *spec.folders))),
                *(_device(index, path) for index, path in enumerate(_devices(spec, site))),
            ],
            **{key: value for key, value in optional.items() if value},
        },
    }


def _place(spec: SandboxSpec, site: Site) -> dict[str, str]:
    return {"namespace": user_namespace.name_of(spec.user, spec.uid)} if site.users_of else {}


def labels(spec: SandboxSpec) -> dict[str, str]:
    """Return the labels by which people and the agent find the pod."""
    return {
        "app": "slurm-job",
        "job-id": str(spec.run.job_id),
        "sbridge/restart": str(spec.run.restart),
        "sbridge/node": label(spec.node),
        "sbridge/user": label(spec.user),
        "sbridge/account": label(spec.account),
        "sbridge/partition": label(spec.partition),
        "app.kubernetes.io/name": "slurm-job",
        "app.kubernetes.io/instance": label(spec.name),
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/part-of": "sbridge",
        "app.kubernetes.io/managed-by": "sbridge",
    }


def selector(node: str) -> str:
    """Return the label selector of the pods of a Slurm node's jobs."""
    return f"app=slurm-job,sbridge/node={label(node)},!{SHORT_LIVED}"


def foreign_selector(node: str) -> str:
    """Return the label selector of the pods of all other Slurm nodes' jobs."""
    return f"app=slurm-job,sbridge/node!={label(node)},!{SHORT_LIVED}"


def label(text: str) -> str:
    """Return `text` as a label's value, which allows few characters and 63 of them."""
    return _LABEL_CHARACTERS.sub("-", text)[:_LONGEST_LABEL].strip("-_.")


def _container(spec: SandboxSpec, site: Site) -> dict[str, Any]:
    visible = ",".join(map(str, spec.gpus)) or "void"
    return {
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": site.pull_policy,
        "command": [INIT_PATH, "-P"],
        # For a GPU runtime class: exactly the devices that Slurm gave, and none without.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": visible}],
        # The steps choose their own directory; the image's may not exist or not be the user's.
        "workingDir": "/",
        "resources": _resources(spec, site.gpu_resource),
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": f"mount-{index}", "mountPath": mount.target, "readOnly": mount.read_only}
            for index, mount in enumerate(spec.mounts)
        ]
        + [
            {"name": f"device-{index}", "mountPath": path}
            for index, path in enumerate(_devices(spec, site))
        ],
    }


def _resources(spec: SandboxSpec, gpu_resource: str) -> dict[str, Any]:
    amounts = {}
    if spec.cpus:
        amounts["cpu"] = str(spec.cpus)
    if spec.memory_mib:
        amounts["memory"] = f"{spec.memory_mib}Mi"
    if spec.gpus and gpu_resource:
        amounts[gpu_resource] = str(len(spec.gpus))
    return {"limits": amounts, "requests": dict(amounts)}


def affinity(node: str) -> dict[str, Any]:
    """Pin to one node as DaemonSets do: through the scheduler, and by the node's own name."""
    if not node:
        return {}
    here = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [here]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _toleration(text: str) -> dict[str, str]:
    """Read `key=value:effect` as kubectl taint writes it; without value or effect: any."""
    match = _TOLERATION.fullmatch(text)
    if match is None or not text:
        raise ConfigError(f"kubernetes.tolerations: {text!r} is not KEY[=VALUE][:EFFECT]")
    found = {name: value for name, value in match.groupdict().items() if value}
    return {**found, "operator": "Equal" if "value" in found else "Exists"}


def _devices(spec: SandboxSpec, site: Site) -> tuple[str, ...]:
    """Return the device files to show; a GPU runtime class brings in its own."""
    return () if site.gpu_runtime_class else spec.devices


def _device(index: int, path: str) -> dict[str, Any]:
    return {"name": f"device-{index}", "hostPath": {"path": path, "type": "CharDevice"}}


def _volume(index: int, mount: Mount) -> dict[str, Any]:
    kind = "File" if mount.is_file else "Directory"
    return {"name": f"mount-{index}", "hostPath": {"path": mount.source, "type": kind}}
