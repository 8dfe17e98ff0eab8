"""Does the cluster have what sbridge needs? One answer per line, each with what to do.

Nothing is changed. What cannot be asked is wrong, never right.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.config import Config, Kubernetes
from bridge.errors import SbridgeError
from bridge.runtimes import manifest
from bridge.runtimes.kubernetes import (
    confinement,
    credentials,
    installation,
    rights,
    site,
    user_namespace,
)
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError

NEWEST_MINOR = 36  # of Kubernetes 1; the three newest are what it is made for
_SUPPORTED_MINORS = 3
_LAST_PART = 0.1  # of a token's life: whoever renews it should have done so
CORDON = "node.kubernetes.io/unschedulable"  # the taint of a cordoned node
_BLOCKING = ("NoSchedule", "NoExecute")


@dataclass(frozen=True)
class Answer:
    """One answer; `remedy` says what to do about one that is not right."""

    is_right: bool
    text: str
    remedy: str = ""


def examine(
    admin: Api,
    agent: Callable[[], Api | None],
    config: Config,
    nodes: Callable[[], Sequence[str]],
) -> Iterator[Answer]:
    """Examine the cluster, as an administrator and, if there is that, with an agent's credentials.

    `nodes` returns the names of Slurm's nodes.
    """
    settings = config.kubernetes
    parts: list[tuple[str, Callable[[], Iterator[Answer]]]] = [
        ("the API", lambda: _version(admin)),
        ("the objects of the site", lambda: _objects(admin, config)),
        ("what pods refer to", lambda: _references(admin, config)),
        ("the nodes", lambda: _nodes(admin, settings, nodes())),
        ("the agents' rights", lambda: _rights(admin, agent(), config)),
        ("what the agents are refused", lambda: _confinement(agent, settings)),
    ]
    for what, part in parts:
        try:
            yield from part()
        except SbridgeError as error:
            yield Answer(False, f"{what} could not be examined: {error.message}", error.hint)


def _version(admin: Api) -> Iterator[Answer]:
    told = admin.get("/version")
    version = told["gitVersion"]
    yield Answer(True, f"the Kubernetes API at {admin.server.url} answers, version {version}")
    oldest = NEWEST_MINOR - _SUPPORTED_MINORS + 1
    minor = int(re.sub(r"\D.*", "", told["minor"]) or 0)
    span = f"1.{oldest} to 1.{NEWEST_MINOR}"
    if minor < oldest:
        yield Answer(False, f"{version} is older than {span}", "Upgrade the cluster.")
    elif minor > NEWEST_MINOR:
        remedy = "Look for a newer sbridge."
        yield Answer(False, f"{version} is newer than {span}, which this sbridge knows", remedy)
    else:
        yield Answer(True, f"{version} is one of {span}")


def _objects(admin: Api, config: Config) -> Iterator[Answer]:
    wanted = installation.objects(admin, config)
    strange = {found.title: found for found in installation.differences(admin, wanted)}
    for title in map(site.title, wanted):
        found = strange.get(title)
        if found is None:
            yield Answer(True, f"{title} is as configured")
        elif found.is_missing:
            yield Answer(False, f"{title} is not there", "Run `sbridge kubernetes apply`.")
        else:
            remedy = "`sbridge kubernetes diff` shows it, `sbridge kubernetes apply` mends it."
            yield Answer(False, f"{title} is not as configured", remedy)


def _references(admin: Api, config: Config) -> Iterator[Answer]:
    """Look for what the site's configuration names and `apply` does not make."""
    settings = config.kubernetes
    classes = {settings.runtime_class, settings.gpu_runtime_class} - {""}
    wanted = [
        ("RuntimeClass", name, f"/apis/node.k8s.io/v1/runtimeclasses/{name}")
        for name in sorted(classes)
    ]
    if settings.priority_class not in ("", site.PRIORITY_CLASS):
        name = settings.priority_class
        wanted.append(("PriorityClass", name, f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}"))
    users = installation.user_namespaces(admin, config) if settings.image_pull_secrets else []
    for place in [settings.namespace, *(one["metadata"]["name"] for one in users)]:
        for name in settings.image_pull_secrets:
            path = f"/api/v1/namespaces/{place}/secrets/{name}"
            wanted.append(("Secret", f"{place}/{name}", path))
    for kind, name, path in wanted:
        if admin.find(path) is not None:
            yield Answer(True, f"{kind} {name} is there")
        else:
            remedy = "Make it, or change the [kubernetes] settings."
            yield Answer(False, f"{kind} {name} is not there", remedy)


def _nodes(admin: Api, settings: Kubernetes, nodes: Sequence[str]) -> Iterator[Answer]:
    known = {node["metadata"]["name"]: node for node in admin.get("/api/v1/nodes")["items"]}
    tolerations = manifest.Site.of(settings, "").tolerations
    for slurm_node in nodes:
        name = manifest.kubernetes_node(settings, slurm_node)
        label = f"Slurm's node {slurm_node} is Kubernetes' node {name}"
        if name not in known:
            yield Answer(
                False,
                f"{label}, which is not there (there are: {', '.join(sorted(known)) or 'none'})",
                "Name it in kubernetes.node_names, or have its kubelet join the cluster.",
            )
            continue
        wrong = trouble(known[name], tolerations)
        yield Answer(not wrong, f"{label}: {wrong or 'Ready'}", _NODE_REMEDY if wrong else "")


_NODE_REMEDY = "Look at `kubectl describe node`; sandboxes wait for it meanwhile."


def trouble(node: Object, tolerations: Sequence[dict[str, str]]) -> str:
    """Return why pods with these tolerations do not run on a node; empty if they do."""
    conditions = node.get("status", {}).get("conditions") or []
    ready: Object = next((one for one in conditions if one["type"] == "Ready"), {})
    if ready.get("status") != "True":
        return f"not Ready ({ready.get('message') or 'its kubelet never said anything'})"
    taints = [taint for taint in node["spec"].get("taints") or [] if taint["effect"] in _BLOCKING]
    bad = [taint for taint in taints if not any(_tolerates(one, taint) for one in tolerations)]
    if any(taint["key"] == CORDON for taint in bad):
        return "cordoned"
    words = ", ".join(f"{one['key']}={one.get('value', '')}:{one['effect']}" for one in bad)
    return f"has taints that kubernetes.tolerations does not name: {words}" if bad else ""


def _tolerates(toleration: dict[str, str], taint: Object) -> bool:
    """As the scheduler's rule has it; empty means any."""
    if toleration.get("effect") not in (None, taint["effect"]):
        return False
    if toleration.get("key") not in (None, taint["key"]):
        return False
    return toleration["operator"] == "Exists" or toleration["value"] == taint.get("value", "")


def _rights(admin: Api, agent: Api | None, config: Config) -> Iterator[Answer]:
    settings = config.kubernetes
    namespace = settings.namespace
    name = site.agent_name(namespace)
    if agent is None:
        text = f"{name} is examined by SubjectAccessReview: its own credentials are not here"
        yield Answer(True, text)
    else:
        yield from _credentials(agent, settings, name)
    authorizer = rights.Authorizer(agent or admin, namespace, is_agent=agent is not None)
    lacking = [right for right in rights.needed(config) if not authorizer.allows(right)]
    remedy = "`sbridge kubernetes apply` gives the agents their role."
    yield _none_of(lacking, "the agents may do all that they need", "the agents may not", remedy)
    excess: list[Any] = [right for right in rights.harmful(config) if authorizer.allows(right)]
    if agent is not None:
        excess = sorted({*map(str, excess), *rights.surplus(agent, config)})
    remedy = f"Remove the roles that give it; the agents need none but `{site.role_name(config)}`."
    yield _none_of(excess, "the agents may do nothing else", "the agents need not, but may", remedy)


def _confinement(agent: Callable[[], Api | None], settings: Kubernetes) -> Iterator[Answer]:
    """Try what the agents' role in the whole cluster allows and a policy refuses; by dry runs."""
    api = agent() if settings.user_namespaces else None
    if api is None:
        return
    policy = f"{confinement.AGENTS_NAME_PREFIX}{settings.namespace}"
    for what, path, body in _ATTEMPTS:
        try:
            api.create(path, body, dry_run=True)
        except RefusedError as error:
            is_right = error.status == 403
            text = f"the agents may not make {what}" + ("" if is_right else f": {error.message}")
            yield Answer(is_right, text)
        else:
            remedy = f"`sbridge kubernetes apply` puts the policy {policy} into force."
            yield Answer(False, f"the agents may make {what}, which nothing refuses", remedy)


_CHECK = {"name": "sbridge-check"}
_POD = {"metadata": _CHECK, "spec": {"containers": [{"name": "check", "image": "sbridge-check"}]}}
_ATTEMPTS: list[tuple[str, str, Object]] = [
    ("pods in default", "/api/v1/namespaces/default/pods", _POD),
    ("pods in kube-system", "/api/v1/namespaces/kube-system/pods", _POD),
    ("other namespaces", "/api/v1/namespaces", {"metadata": _CHECK}),
    (
        "users' namespaces without labels",
        "/api/v1/namespaces",
        {"metadata": {"name": f"{user_namespace.PREFIX}sbridge-check"}},
    ),
]


def _none_of(found: Sequence[object], good: str, bad: str, remedy: str) -> Answer:
    if not found:
        return Answer(True, good)
    return Answer(False, f"{bad}: {', '.join(map(str, found))}", remedy)


def _credentials(agent: Api, settings: Kubernetes, expected: str) -> Iterator[Answer]:
    user = rights.user_of(agent)
    remedy = "" if user == expected else f"Make them anew with `{_KUBECONFIG_COMMAND}`."
    yield Answer(
        user == expected, f"the agent's credentials in {settings.kubeconfig} are {user}'s", remedy
    )
    life = credentials.life_of(agent.token)
    if life is None:
        return
    made, end = life
    left_s = end - time.time()
    when = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    is_right = left_s > (end - made) * _LAST_PART
    remedy = "" if is_right else f"Renew it with `{_KUBECONFIG_COMMAND}`."
    yield Answer(
        is_right, f"the agent's token ends at {when}, in {left_s / 86400:.1f} days", remedy
    )


_KUBECONFIG_COMMAND = "sbridge kubernetes kubeconfig --output FILE"
