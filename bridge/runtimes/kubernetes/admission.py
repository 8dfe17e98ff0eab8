"""The policy that makes good for the namespace's weak Pod Security level.

Pod Security Admission knows whole levels only, and sandboxes need what the middle one forbids:
folders of the node. So the namespace enforces nothing by level, and this policy forbids the
rest one by one, whoever asks: a stolen token of an agent makes no pod that a sandbox is not.
Each rule is a sentence for whoever is refused and an expression in CEL (Kubernetes'
ValidatingAdmissionPolicy, v1 since 1.30) over a pod; Kubernetes itself knows `?` and `orValue`.
"""

import json
import re
from typing import Any

from bridge.config import GPU_ALONE, GPU_INDEX, Config
from bridge.runtimes.kubernetes import user_namespace
from bridge.runtimes.sandbox import Mount

Object = dict[str, Any]

POLICIES = "sbridge-"  # begin the names of all policies
NAME_PREFIX = f"{POLICIES}pods."
USERS_NAME_PREFIX = f"{POLICIES}user-pods."
HINT = "`sbridge kubernetes apply` renews the policy after the configuration was changed"


def policy(config: Config) -> list[Object]:
    """Return the ValidatingAdmissionPolicy for the site's namespace, and its binding."""
    namespace = config.kubernetes.namespace
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return _for_pods(config, f"{NAME_PREFIX}{namespace}", here, ())


def users_policy(config: Config) -> list[Object]:
    """Return the same for its users' namespaces, where there is one rule more."""
    namespace = config.kubernetes.namespace
    theirs = {"matchLabels": {user_namespace.SITE: namespace}}
    return _for_pods(config, f"{USERS_NAME_PREFIX}{namespace}", theirs, (_OWN_UID,))


def _for_pods(
    config: Config, name: str, namespaces: Object, more: tuple[tuple[str, str], ...]
) -> list[Object]:
    rules = [rule(message, text) for message, text in [*more, *_network(config), *_RULES]]
    resources = [resource("pods", "CREATE"), resource("pods/ephemeralcontainers", "UPDATE")]
    return bound(
        name,
        {
            "failurePolicy": "Fail",
            "matchConstraints": {"namespaceSelector": namespaces, "resourceRules": resources},
            "variables": [{"name": "strange", "expression": _strange_folders(config)}],
            "validations": [*rules, _FOLDERS],
        },
    )


def bound(name: str, spec: Object) -> list[Object]:
    """Return a policy, and the binding that has it deny."""
    version = {"apiVersion": "admissionregistration.k8s.io/v1"}
    binding = {"policyName": name, "validationActions": ["Deny"]}
    kind = "ValidatingAdmissionPolicy"
    return [
        {**version, "kind": kind, "metadata": {"name": name}, "spec": spec},
        {**version, "kind": f"{kind}Binding", "metadata": {"name": name}, "spec": binding},
    ]


def rule(message: str, expression: str) -> Object:
    """Return a validation; `message` is for whoever is refused."""
    return {"message": message, "expression": expression, "reason": "Forbidden"}


def folders(config: Config) -> tuple[list[str], str]:
    """Return what of a node sandboxes mount: exact paths, and a pattern of paths in the spool.

    Exact, and nothing below: a user's symbolic link below his home would lead anywhere. The
    pattern names what root makes in folders that are root's, and means the same in Python and
    in RE2.
    """
    paths = [Mount.of(text).source for text in config.sandbox.mounts]
    run = r"jobs/[0-9]+\.[0-9]+/(out|script|steps|share/passwd|share/group)"
    return (
        paths,
        rf"^{re.escape(str(config.agent.spool_dir))}/[^/]+/(share|share/profile[.]sh|{run})$",
    )


def devices(config: Config) -> str:
    """Return the pattern of the device files that sandboxes are shown, for Python and RE2."""
    patterns = (GPU_ALONE.sub("", pattern, count=1) for pattern in config.sandbox.gpu_devices)
    paths = (GPU_INDEX.split(pattern)[::2] for pattern in patterns)
    return f"^({'|'.join('[0-9]+'.join(map(re.escape, parts)) for parts in paths)})$"


def resource(name: str, *operations: str, group: str = "") -> Object:
    """Return what a policy is asked about."""
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "resources": [name],
        "operations": list(operations),
    }


def _each(condition: str) -> str:
    return f"object.spec.containers.all(c, {condition})"


_RULES = (
    (
        "a sandbox has no init container and no ephemeral one",
        "object.spec.?initContainers.orValue([]).size() == 0 &&"
        " object.spec.?ephemeralContainers.orValue([]).size() == 0",
    ),
    (
        "a sandbox has no hostPID and no hostIPC",
        "!object.spec.?hostPID.orValue(false) && !object.spec.?hostIPC.orValue(false)",
    ),
    (
        "a sandbox is not privileged",
        _each("!c.?securityContext.?privileged.orValue(false)"),
    ),
    (
        "a sandbox says allowPrivilegeEscalation: false",
        _each("!c.?securityContext.?allowPrivilegeEscalation.orValue(true)"),
    ),
    (
        "a sandbox drops ALL capabilities and adds none",
        _each(
            "c.?securityContext.?capabilities.?add.orValue([]).size() == 0 &&"
            " 'ALL' in c.?securityContext.?capabilities.?drop.orValue([])"
        ),
    ),
    (
        "a sandbox says runAsNonRoot: true and a runAsUser that is not 0",
        _each(
            "c.?securityContext.?runAsNonRoot"
            ".orValue(object.spec.?securityContext.?runAsNonRoot.orValue(false)) &&"
            " c.?securityContext.?runAsUser"
            ".orValue(object.spec.?securityContext.?runAsUser.orValue(0)) != 0"
        ),
    ),
    (
        "a sandbox has the seccomp profile RuntimeDefault",
        "object.spec.?securityContext.?seccompProfile.?type.orValue('') == 'RuntimeDefault' && "
        + _each(
            "c.?securityContext.?seccompProfile.?type.orValue('RuntimeDefault') == 'RuntimeDefault'"
        ),
    ),
    (
        "a sandbox sets no sysctl, SELinux or procMount option and no AppArmor profile Unconfined",
        "object.spec.?securityContext.?sysctls.orValue([]).size() == 0 &&"
        " !object.spec.?securityContext.?seLinuxOptions.hasValue() &&"
        " object.spec.?securityContext.?appArmorProfile.?type.orValue('') != 'Unconfined' && "
        + _each(
            "!c.?securityContext.?seLinuxOptions.hasValue() &&"
            " c.?securityContext.?procMount.orValue('Default') == 'Default' &&"
            " c.?securityContext.?appArmorProfile.?type.orValue('') != 'Unconfined'"
        ),
    ),
    (
        "a sandbox says automountServiceAccountToken: false",
        "!object.spec.?automountServiceAccountToken.orValue(true)",
    ),
    (
        "a sandbox takes nothing from the cluster: no volume but hostPath, no variable from a"
        " Secret, a ConfigMap or a field",
        "object.spec.?volumes.orValue([]).all(v, has(v.hostPath)) && "
        + _each("!has(c.envFrom) && c.?env.orValue([]).all(e, !has(e.valueFrom))"),
    ),
)

# Whoever may make pods in his own namespace is nobody else in the folders that they mount.
_OWN_UID = (
    "in a user's namespace a sandbox runs as that user, whose uid is the namespace's label"
    f" {user_namespace.UID}",
    _each(
        "string(c.?securityContext.?runAsUser"
        ".orValue(object.spec.?securityContext.?runAsUser.orValue(0))) =="
        f" namespaceObject.metadata.labels[?'{user_namespace.UID}'].orValue('')"
    ),
)

_FOLDERS = {
    "message": f"a sandbox mounts folders of the configuration and the spool only; {HINT}",
    "messageExpression": "'a sandbox does not mount ' + variables.strange.join(', ') + "
    + json.dumps(f"; {HINT}"),
    "expression": "variables.strange.size() == 0",
    "reason": "Forbidden",
}


def _network(config: Config) -> list[tuple[str, str]]:
    """With the node's network a sandbox has all of its ports anyway."""
    if config.sandbox.host_network:
        return []
    return [
        (
            f"a sandbox has a network of its own (sandbox.host_network = false); {HINT}",
            "!object.spec.?hostNetwork.orValue(false) && "
            + _each("c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0)"),
        )
    ]


def _strange_folders(config: Config) -> str:
    """Return the expression of the hostPaths that no sandbox has; CEL has JSON's strings.

    Only what is there is mounted: other types have the kubelet make it, as root.
    """
    values = (*folders(config), devices(config))
    paths, pattern, devices_pattern = (json.dumps(value, ensure_ascii=False) for value in values)
    known = f"(v.hostPath.path in {paths} || v.hostPath.path.matches({pattern}))"
    there = "v.hostPath.?type.orValue('') in ['Directory', 'File']"
    device = "v.hostPath.?type.orValue('') == 'CharDevice'"
    shown = f"v.hostPath.path.matches({devices_pattern})"
    admitted = f"({known} && {there} || {shown} && {device})"
    return (
        f"object.spec.?volumes.orValue([]).filter(v, has(v.hostPath) && !{admitted})"
        """.map(v, v.hostPath.path + " (type '" + v.hostPath.?type.orValue('') + "')")"""
    )
