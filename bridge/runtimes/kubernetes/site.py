"""What the cluster must have before sandboxes can be made: rendered from the configuration.

Pure: settings in, objects out, in the order in which they are made. Each says in its
`kubernetes.io/description` why it is there. `sbridge kubernetes apply` installs them.
"""

from typing import Any

from bridge.config import Config
from bridge.runtimes.kubernetes import admission, confinement, user_namespace

Object = dict[str, Any]

SERVICE_ACCOUNT = "sbridge-agent"
PRIORITY_CLASS = "sbridge-job"
MANAGED_BY = "app.kubernetes.io/managed-by"

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
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
}


def agent_rules(config: Config) -> list[Object]:
    """Return what an agent asks of the API, all of it; a test lives with exactly this."""
    rules: list[Object] = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "list"]},
    ]
    if config.kubernetes.user_namespaces:
        rules.append({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["create"]})
        if not config.sandbox.host_network:
            group, resource = "networking.k8s.io", "networkpolicies"
            rules.append({"apiGroups": [group], "resources": [resource], "verbs": ["create"]})
    return rules


def objects(config: Config) -> list[Object]:
    """Return the objects that a site needs, in the order in which they can be made."""
    namespace = config.kubernetes.namespace
    policy, binding = admission.policy(config)
    why = _why_namespace(namespace, config.sandbox.host_network)
    wanted = [
        _described(_namespace(namespace), why),
        _described(policy, _WHY_POLICY),
        _described(binding, f"Puts the policy into force, for the pods of {namespace}."),
        *_confinement(config),  # before the role, which it confines
        _described(_service_account(), _WHY_SERVICE_ACCOUNT, namespace),
        *_roles(config),
    ]
    if config.kubernetes.priority_class == PRIORITY_CLASS:  # another one is the site's own
        wanted.insert(1, _described(_priority_class(), _WHY_PRIORITY_CLASS))
    if not config.sandbox.host_network:  # no policy reaches pods that have the node's network
        wanted.append(_described(_network_policy(), _WHY_NETWORK_POLICY, namespace))
    return wanted


def user_objects(
    name: str, owner: tuple[str, str], namespace: str, *, host_network: bool
) -> list[Object]:
    """Return what makes a user's namespace, whose owner's labels are his name and his uid.

    `namespace` is the site's own, `name` this one's.
    """
    labels = {
        user_namespace.SITE: namespace,
        user_namespace.USER: owner[0],
        user_namespace.UID: owner[1],
    }
    why = _why_namespace(namespace, host_network, f"{admission.USERS_NAME_PREFIX}{namespace}")
    wanted = [_described(_namespace(name, labels), why)]
    if not host_network:
        wanted.append(_described(_network_policy(), _WHY_USERS_NETWORK_POLICY, name))
    return wanted


def user_objects_for(pod: Object, namespace: str) -> list[Object]:
    """Return what makes the user's namespace that a pod of the site is for."""
    metadata, spec = pod["metadata"], pod["spec"]
    owner = metadata["labels"][user_namespace.USER], str(spec["securityContext"]["runAsUser"])
    return user_objects(metadata["namespace"], owner, namespace, host_network=spec["hostNetwork"])


def collection(wanted: Object) -> str:
    """Return the API's path of the objects of the same kind and namespace."""
    namespace = wanted["metadata"].get("namespace", "")
    return _COLLECTIONS[wanted["kind"]].format(namespace=namespace)


def path(wanted: Object) -> str:
    """Return the API's path of an object."""
    return f"{collection(wanted)}/{wanted['metadata']['name']}"


def title(wanted: Object) -> str:
    """Return how people call an object, such as `Role sbridge/sbridge-agent`."""
    metadata = wanted["metadata"]
    place = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{wanted['kind']} {place}{metadata['name']}"


def role_name(config: Config) -> str:
    """Return how the agents' role is called; other sites have theirs in the same cluster."""
    settings = config.kubernetes
    return (
        f"{SERVICE_ACCOUNT}.{settings.namespace}" if settings.user_namespaces else SERVICE_ACCOUNT
    )


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


def _namespace(name: str, labels: dict[str, str] | None = None) -> Object:
    levels = {"enforce": "privileged", "audit": "restricted", "warn": "restricted"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                **(labels or {}),
                **{f"{_POD_SECURITY}/{mode}": level for mode, level in levels.items()},
            },
        },
    }


def _why_namespace(namespace: str, host_network: bool, policy: str = "") -> str:
    """Say why a namespace is there; `policy` is that of users' namespaces."""
    network = " and share its network (hostNetwork)" if host_network else ""
    exceptions = "hostPath and hostNetwork" if network else "hostPath"
    whose = f"one user's Slurm jobs, of the site {namespace}," if policy else "Slurm jobs"
    return (
        f"Holds the sandboxes of {whose} and nothing else.\n"
        f"enforce=privileged: sandboxes mount folders of their node (hostPath){network}, which"
        " baseline forbids. What else restricted forbids, the policy"
        f" {policy or admission.NAME_PREFIX + namespace} forbids.\n"
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
_WHY_ROLE_BINDING = "Gives the agents their role."
_WHY_NETWORK_POLICY = (
    "Sandboxes have a network of their own (sandbox.host_network = false): they reach each other,"
    " as jobs with several nodes must, and from elsewhere nobody reaches them but their node."
    " Needs a network plug-in that carries policies out."
)


_WHY_USERS_NETWORK_POLICY = (
    "Sandboxes have a network of their own (sandbox.host_network = false): a user's reach each"
    " other, as jobs with several nodes must, and from elsewhere nobody reaches them but their"
    " node. Needs a network plug-in that carries policies out."
)
_WHY_USERS_POLICY = (
    "Makes good for the Pod Security level of users' namespaces: what a sandbox does not need, no"
    " pod there may have, whoever makes it, also with a stolen token of an agent."
)
_WHY_AGENTS_POLICY = (
    "The agents' role is one in the whole cluster, because it makes users' namespaces. This"
    " confines it: they make and remove pods in the site's namespaces only, and make no namespace"
    " but a user's."
)
_WHY_LABELS_POLICY = (
    "The other policies know users' namespaces by their labels; so nobody changes these, whoever"
    " it is."
)
_WHY_CLUSTER_ROLE = (
    "All that an agent asks for: make, watch and remove sandboxes, tell and read their events, and"
    " make users' namespaces. No secrets, no exec, nothing of the nodes; the policy"
    f" {confinement.AGENTS_NAME_PREFIX}… says in which namespaces."
)


def _confinement(config: Config) -> list[Object]:
    """Return the policies that make the agents' role in the whole cluster a small one."""
    if not config.kubernetes.user_namespaces:
        return []
    site = config.kubernetes.namespace
    owner = ("alice", "1001")
    sample = user_objects("user-alice", owner, site, host_network=config.sandbox.host_network)
    parts = [
        (admission.users_policy(config), _WHY_USERS_POLICY),
        (confinement.of_agents(agent_name(site), site, sample), _WHY_AGENTS_POLICY),
        (confinement.of_labels(site), _WHY_LABELS_POLICY),
    ]
    binding_why = "Puts the policy into force."
    return [
        _described(wanted, why if wanted["kind"] == "ValidatingAdmissionPolicy" else binding_why)
        for part, why in parts
        for wanted in part
    ]


def _roles(config: Config) -> list[Object]:
    namespace = config.kubernetes.namespace
    rules = agent_rules(config)
    if not config.kubernetes.user_namespaces:
        return [
            _described(_role("Role", SERVICE_ACCOUNT, rules), _WHY_ROLE, namespace),
            _described(
                _role_binding("Role", SERVICE_ACCOUNT, namespace), _WHY_ROLE_BINDING, namespace
            ),
        ]
    name = role_name(config)
    return [
        _described(_role("ClusterRole", name, rules), _WHY_CLUSTER_ROLE),
        _described(_role_binding("ClusterRole", name, namespace), _WHY_ROLE_BINDING),
    ]


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


def _role(kind: str, name: str, rules: list[Object]) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "rules": rules,
    }


def _role_binding(kind: str, name: str, namespace: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
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
