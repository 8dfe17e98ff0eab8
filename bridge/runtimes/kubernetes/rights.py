"""What the agents may do in the cluster: all that they need, and nothing else.

Asked of the API server's own authorizer (SelfSubjectAccessReview and SelfSubjectRulesReview with
the agent's credentials, SubjectAccessReview about it with an administrator's).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bridge.config import Config
from bridge.runtimes.kubernetes import site
from bridge.runtimes.kubernetes.api import Api, Object

_AUTHORIZATION = "/apis/authorization.k8s.io/v1"
_AUTHENTICATION = "/apis/authentication.k8s.io/v1"
_VERSION = "authorization.k8s.io/v1"
# What Kubernetes lets everybody do who has credentials (its role system:basic-user).
_EVERYBODYS = frozenset(
    {
        ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
        ("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
        ("create", "authentication.k8s.io", "selfsubjectreviews"),
    }
)


@dataclass(frozen=True)
class Right:
    """One thing to do; `namespace` "" means in all of them, or what is in none."""

    verb: str
    resource: str
    namespace: str = ""
    group: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {kind}" + (f" in {self.namespace}" if self.namespace else "")


def needed(config: Config) -> list[Right]:
    """Return what an agent asks for, one right each."""
    settings = config.kubernetes
    namespace = "" if settings.user_namespaces else settings.namespace
    return [
        Right(verb, resource, namespace, group)
        for rule in site.agent_rules(config)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def harmful(config: Config) -> list[Right]:
    """Return what would do harm in a thief's hands, and no agent asks for."""
    namespace = config.kubernetes.namespace
    elsewhere = [
        Right("list", "pods"),
        Right("create", "pods", "kube-system"),
        Right("create", "pods", "default"),
    ]
    return [
        *(Right(verb, "secrets", namespace) for verb in ("get", "list", "watch")),
        Right("create", "pods/exec", namespace),
        Right("update", "pods/ephemeralcontainers", namespace),
        Right("create", "serviceaccounts/token", namespace),
        Right("create", "rolebindings", namespace, "rbac.authorization.k8s.io"),
        Right("list", "secrets"),
        *([] if config.kubernetes.user_namespaces else elsewhere),
        *(Right(verb, "namespaces") for verb in ("update", "patch", "delete")),
        Right("get", "nodes"),
        Right("get", "nodes/proxy"),
        Right("impersonate", "users"),
        Right("*", "*", "", "*"),
    ]


class Authorizer:
    """Answers whether the agent may do something; asks as the agent, or as another about it."""

    def __init__(self, api: Api, namespace: str, *, is_agent: bool) -> None:
        self._api = api
        self._namespace = namespace
        self._kind = "SelfSubjectAccessReview" if is_agent else "SubjectAccessReview"

    def allows(self, right: Right) -> bool:
        """Whether the agent may; raises `RefusedError` when the asker may not ask."""
        resource, _, part = right.resource.partition("/")
        attributes = {
            "verb": right.verb,
            "group": right.group,
            "resource": resource,
            "subresource": part,
            "namespace": right.namespace,
        }
        spec: Object = {"resourceAttributes": attributes}
        if self._kind == "SubjectAccessReview":
            spec["user"] = site.agent_name(self._namespace)
            accounts = "system:serviceaccounts"
            own = f"{accounts}:{self._namespace}"
            spec["groups"] = [accounts, own, "system:authenticated"]
        body = {"apiVersion": _VERSION, "kind": self._kind, "spec": spec}
        answer = self._api.create(f"{_AUTHORIZATION}/{self._kind.lower()}s", body)
        return bool(answer["status"]["allowed"])


def user_of(api: Api) -> str:
    """Return the name that the API server has for whoever asks."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = api.create(f"{_AUTHENTICATION}/selfsubjectreviews", body)
    return str(answer["status"]["userInfo"]["username"])


def surplus(api: Api, config: Config) -> list[str]:
    """Return what whoever asks may do in the namespace, or outside of all, without need."""
    namespace = config.kubernetes.namespace
    body = {
        "apiVersion": _VERSION,
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    status = api.create(f"{_AUTHORIZATION}/selfsubjectrulesreviews", body)["status"]
    wanted = {(right.verb, right.group, right.resource) for right in needed(config)}
    found = set(_expanded(status["resourceRules"])) - wanted - _EVERYBODYS
    return sorted(str(Right(verb, resource, "", group)) for verb, group, resource in found)


def _expanded(rules: list[Object]) -> Iterator[tuple[str, str, str]]:
    for rule in rules:
        for group in rule.get("apiGroups") or [""]:
            for resource in rule.get("resources") or []:
                for verb in rule["verbs"]:
                    yield verb, group, resource
