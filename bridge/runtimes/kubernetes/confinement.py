"""The policies that confine the agents to their site, where their role is one in all namespaces.

RBAC cannot say "in namespaces that are called so", or "a namespace with these labels"; two more
ValidatingAdmissionPolicies do. One is about the agents alone, told by their user name: what they
create or delete is in the site's namespaces, and what namespaces they make are users', with
exactly the labels that have the other policies hold there. The other one is about everybody:
nobody takes these labels off again, since a namespace without them would admit any pod.
"""

import json
from typing import Any

from bridge.runtimes.kubernetes import admission, user_namespace

Object = dict[str, Any]

AGENTS_NAME_PREFIX = f"{admission.POLICIES}agents."
LABELS_NAME_PREFIX = f"{admission.POLICIES}namespaces."

_OWNER_LABELS = (user_namespace.USER, user_namespace.UID)


def of_agents(agent: str, site: str, sample: list[Object]) -> list[Object]:
    """Return the policy for the agents of `site`, whose user name is `agent`, and its binding.

    `sample` are the objects of one user, which say what those of all others look like.
    """
    (namespace,) = (wanted for wanted in sample if wanted["kind"] == "Namespace")
    policies = [wanted for wanted in sample if wanted["kind"] == "NetworkPolicy"]
    return admission.bound(
        f"{AGENTS_NAME_PREFIX}{site}",
        {
            "failurePolicy": "Fail",
            "matchConditions": [
                {
                    "name": "agents-only",
                    "expression": f"request.userInfo.username == {json.dumps(agent)}",
                }
            ],
            "matchConstraints": {
                "resourceRules": [
                    admission.resource("pods", "CREATE", "DELETE"),
                    admission.resource("events", "CREATE"),
                    admission.resource("namespaces", "CREATE"),
                    admission.resource("networkpolicies", "CREATE", group="networking.k8s.io"),
                ]
            },
            "validations": [
                _place(site),
                _names(),
                _labels(namespace["metadata"]["labels"]),
                _nothing_else(),
                _network(policies),
            ],
        },
    )


def of_labels(site: str) -> list[Object]:
    """Return the policy that keeps the labels of users' namespaces, and its binding."""
    kept = [user_namespace.SITE, *_OWNER_LABELS]
    old, new = (f"{what}.metadata.?labels" for what in ("oldObject", "object"))
    ours = f"{old}[?'{user_namespace.SITE}'].orValue('') == {json.dumps(site)}"
    same = " && ".join(
        f"{new}[?'{key}'].orValue('') == {old}[?'{key}'].orValue('')" for key in kept
    )
    message = f"the labels {', '.join(kept)} of a user's namespace stay as they are"
    return admission.bound(
        f"{LABELS_NAME_PREFIX}{site}",
        {
            "failurePolicy": "Fail",
            "matchConditions": [{"name": "users-namespaces-only", "expression": ours}],
            "matchConstraints": {"resourceRules": [admission.resource("namespaces", "UPDATE")]},
            "validations": [admission.rule(message, same)],
        },
    )


_IS_NAMESPACE = "request.resource.resource == 'namespaces'"


def _place(site: str) -> Object:
    own = json.dumps(site)
    label = f"namespaceObject.metadata.?labels[?'{user_namespace.SITE}'].orValue('')"
    return admission.rule(
        f"the agents of {site} work there and in namespaces {user_namespace.PREFIX}… with the label"
        f" {user_namespace.SITE}={site} only; kubernetes.namespace and kubernetes.user_namespaces"
        " say where",
        f"{_IS_NAMESPACE} || request.namespace == {own} ||"
        f" (request.namespace.startsWith('{user_namespace.PREFIX}') && {label} == {own})",
    )


def _names() -> Object:
    user, uid = (f"object.metadata.?labels[?'{key}'].orValue('')" for key in _OWNER_LABELS)
    plain = f"object.metadata.name == '{user_namespace.PREFIX}' + {user}"
    other = f"object.metadata.name.endsWith('--' + {uid})"
    return admission.rule(
        f"an agent makes namespaces with the labels {' and '.join(_OWNER_LABELS)} of an ordinary"
        " user only, and with the name that follows from them",
        f"!({_IS_NAMESPACE}) || ({uid}.matches('^[1-9][0-9]*$') && (({plain}) ||"
        f" (object.metadata.name.startsWith('{user_namespace.PREFIX}') && {other})))",
    )


def _labels(sample: Object) -> Object:
    fixed = " && ".join(
        f"object.metadata.?labels[?{json.dumps(key)}].orValue('') == {json.dumps(value)}"
        for key, value in sample.items()
        if key not in _OWNER_LABELS
    )
    known = json.dumps([*sample, "kubernetes.io/metadata.name"])  # the server's own
    return admission.rule(
        f"an agent makes namespaces with exactly the labels of users' namespaces; {admission.HINT}",
        f"!({_IS_NAMESPACE}) || ({fixed} &&"
        f" object.metadata.?labels.orValue({{}}).all(key, key in {known}))",
    )


def _nothing_else() -> Object:
    """Annotations steer other admission plug-ins, such as the one that chooses nodes."""
    return admission.rule(
        "an agent's namespaces have a description and nothing else",
        f"!({_IS_NAMESPACE}) || (object.metadata.?annotations.orValue({{}})"
        ".all(key, key == 'kubernetes.io/description') &&"
        " !has(object.metadata.finalizers) && !has(object.metadata.ownerReferences))",
    )


def _network(policies: list[Object]) -> Object:
    """NetworkPolicies add up: a second one would let others in."""
    known = " || ".join(
        f"(object.metadata.name == {json.dumps(one['metadata']['name'])} &&"
        f" dyn(object).spec == {_dynamic(one['spec'])})"
        for one in policies
    )
    return admission.rule(
        f"an agent makes no NetworkPolicy but a site's own; {admission.HINT}",
        f"request.resource.resource != 'networkpolicies' || {known or 'false'}",
    )


def _dynamic(value: object) -> str:
    """Write a value in CEL, where the values of one map must have the same type or none."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}: {_dynamic(one)}" for key, one in value.items())
        return f"dyn({{{', '.join(pairs)}}})"
    if isinstance(value, list):
        return f"dyn([{', '.join(map(_dynamic, value))}])"
    return f"dyn({json.dumps(value)})"
