"""The Pod manifest of a sandbox: one pure function, the same for every runtime that plays pods.

The job's script is never in it (Kubernetes rewrites `$$` and `$(NAME)`): the container runs
the init from the node, and Slurm's steps enter it.
"""

from typing import Any

from bridge.runtimes.sandbox import Mount, SandboxSpec

INIT_PATH = "/sbridge/init"
CONTAINER = "sandbox"


def pod(spec: SandboxSpec, pull_policy: str) -> dict[str, Any]:
    """Return the v1 Pod for `spec`; `pull_policy` is a container's imagePullPolicy."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.name, "labels": labels(spec)},
        "spec": {
            "restartPolicy": "Never",
            "hostNetwork": spec.host_network,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsUser": spec.uid,
                "runAsGroup": spec.gid,
                "supplementalGroups": list(spec.groups),
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(spec, pull_policy)],
            "volumes": [_volume(index, mount) for index, mount in enumerate(spec.mounts)],
        },
    }


def labels(spec: SandboxSpec) -> dict[str, str]:
    """Return the labels by which people and the agent find the pod."""
    return {
        "app": "slurm-job",
        "job-id": str(spec.run.job_id),
        "sbridge/restart": str(spec.run.restart),
        "sbridge/node": spec.node,
        "sbridge/user": spec.user,
        "sbridge/account": spec.account,
        "sbridge/partition": spec.partition,
        "app.kubernetes.io/name": "slurm-job",
        "app.kubernetes.io/instance": spec.name,
        "app.kubernetes.io/managed-by": "sbridge",
    }


def _container(spec: SandboxSpec, pull_policy: str) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": pull_policy,
        "command": [INIT_PATH, "-P"],
        # The steps choose their own directory; the image's may not exist or not be the user's.
        "workingDir": "/",
        "resources": _resources(spec),
        "securityContext": {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": f"mount-{index}", "mountPath": mount.target, "readOnly": mount.read_only}
            for index, mount in enumerate(spec.mounts)
        ],
    }


def _resources(spec: SandboxSpec) -> dict[str, Any]:
    amounts = {}
    if spec.cpus:
        amounts["cpu"] = str(spec.cpus)
    if spec.memory_mib:
        amounts["memory"] = f"{spec.memory_mib}Mi"
    return {"limits": amounts, "requests": dict(amounts)}


def _volume(index: int, mount: Mount) -> dict[str, Any]:
    kind = "File" if mount.is_file else "Directory"
    return {"name": f"mount-{index}", "hostPath": {"path": mount.source, "type": kind}}
