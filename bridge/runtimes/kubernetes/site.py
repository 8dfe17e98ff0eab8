"""What the cluster must have before sandboxes can be made: rendered from the configuration.

Pure: settings in, objects out, in the order in which they are made. Each says in its
`kubernetes.io/description` why it is there. `sbridge kubernetes apply` installs them.
"""

from typing import Any

from bridge.config import Config
from bridge.runtimes.kubernetes import admission

Object = dict[str, Any]

SERVICE_ACCOUNT = "sbridge-agent"
PRIORITY_CLASS = "sbridge-job"
MANAGED_BY = "app.kubernetes.io/managed-by"
# What an agent asks of the API, all of it; a test lives with exactly this.
AGENT_RULES: tuple[Object, ...] = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "list"]},
)

_PRIORITY = 1000
_POD_SECURITY = "pod-security.kubernetes.io"
_COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "ValidatingAdmissionPolicy": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    ),
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    ),
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
}


def objects(config: Config) -> list[Object]:
    """Return the objects that a site needs, in the order in which they can be made."""
    namespace = config.kubernetes.namespace
    policy, binding = admission.policy(config)
    wanted = [
        _described(_namespace(config), _why_namespace(config)),
        _described(policy, _WHY_POLICY),
        _described(binding, f"Puts the policy into force, for the pods of {namespace}."),
        _described(_service_account(), _WHY_SERVICE_ACCOUNT, namespace),
        _described(_role(), _WHY_ROLE, namespace),
        _described(_role_binding(namespace), "Gives the agents their role.", namespace),
    ]
    if config.kubernetes.priority_class == PRIORITY_CLASS:  # another one is the site's own
        wanted.insert(1, _described(_priority_class(), _WHY_PRIORITY_CLASS))
    if not config.sandbox.host_network:  # no policy reaches pods that have the node's network
        wanted.append(_described(_network_policy(), _WHY_NETWORK_POLICY, namespace))
    return wanted


def path(wanted: Object) -> str:
    """Return the API's path of an object."""
    metadata = wanted["metadata"]
    collection = _COLLECTIONS[wanted["kind"]].format(namespace=metadata.get("namespace", ""))
    return f"{collection}/{metadata['name']}"


def title(wanted: Object) -> str:
    """Return how people call an object, such as `Role sbridge/sbridge-agent`."""
    metadata = wanted["metadata"]
    place = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{wanted['kind']} {place}{metadata['name']}"


def agent_name(namespace: str) -> str:
    """Return the agents' user name in the eyes of the API server."""
    return f"system:serviceaccount:{namespace}:{SERVICE_ACCOUNT}"


def _described(wanted: Object, why: str, namespace: str = "") -> Object:
    metadata = wanted["metadata"]
    labels = {
        "app.kubernetes.io/name": "sbridge",
        MANAGED_BY: "sbridge",
        **metadata.get("labels", {}),
    }
    place = {"namespace": namespace} if namespace else {}
    notes = {"kubernetes.io/description": why}
    full = {"name": metadata["name"], **place, "labels": labels, "annotations": notes}
    return {**wanted, "metadata": full}


def _namespace(config: Config) -> Object:
    levels = {"enforce": "privileged", "audit": "restricted", "warn": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": config.kubernetes.namespace,
            "labels": {f"{_POD_SECURITY}/{mode}": level for mode, level in levels.items()},
        },
    }


def _why_namespace(config: Config) -> str:
    network = " and share its network (hostNetwork)" if config.sandbox.host_network else ""
    exceptions = "hostPath and hostNetwork" if network else "hostPath"
    return (
        "Holds the sandboxes of Slurm jobs and nothing else.\n"
        f"enforce=privileged: sandboxes mount folders of their node (hostPath){network}, which"
        " baseline forbids. What else restricted forbids, the policy"
        f" {admission.NAME_PREFIX}{config.kubernetes.namespace} forbids.\n"
        f"audit, warn=restricted: they name {exceptions} of each sandbox, and whatever else they"
        " name should not be."
    )


_WHY_PRIORITY_CLASS = (
    "Slurm has given the node to the job already, so a sandbox goes before pods without a class,"
    " and is not thrown out for one. It throws out nobody itself (preemptionPolicy Never): that"
    " is for Slurm to decide."
)
_WHY_POLICY = (
    "Makes good for the namespace's Pod Security level: what a sandbox does not need, no pod of"
    " the namespace may have, whoever makes it, also with a stolen token of an agent."
)
_WHY_SERVICE_ACCOUNT = (
    "The agents' identity, one for all nodes. No pod mounts its token; `sbridge kubernetes"
    " kubeconfig` gives the agents one that ends."
)
_WHY_ROLE = (
    "All that an agent asks for: make, watch and remove sandboxes, and tell and read their"
    " events. No secrets, no exec, no other namespace, nothing of the nodes."
)
_WHY_NETWORK_POLICY = (
    "Sandboxes have a network of their own (sandbox.host_network = false): they reach each other,"
    " as jobs with several nodes must, and from elsewhere nobody reaches them but their node."
    " Needs a network plug-in that carries policies out."
)


def _priority_class() -> Object:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": PRIORITY_CLASS},
        "value": _PRIORITY,
        "globalDefault": False,
        "preemptionPolicy": "Never",
        "description": "Sandboxes of Slurm jobs.",
    }


def _service_account() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": SERVICE_ACCOUNT},
        "automountServiceAccountToken": False,
    }


def _role() -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": SERVICE_ACCOUNT},
        "rules": [dict(rule) for rule in AGENT_RULES],
    }


def _role_binding(namespace: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": SERVICE_ACCOUNT},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": SERVICE_ACCOUNT,
        },
        "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": namespace}],
    }


def _network_policy() -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "sbridge-sandboxes"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}]}],
        },
    }
