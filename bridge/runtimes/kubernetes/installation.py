"""Bring a site's objects into the cluster, and tell where the cluster's differ from them.

By server-side apply: the fields that sbridge names are made what it says, whoever set them
before; what others added beside them stays.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bridge.config import Config
from bridge.errors import PermanentError
from bridge.runtimes.kubernetes import site, user_namespace, yaml_text
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError

# What the server writes into each object; no one's wish.
_SERVERS_OWN = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")


@dataclass(frozen=True)
class Outcome:
    """What became of one object: `done` is created, changed, unchanged or refused."""

    title: str
    done: str
    reason: str = ""


@dataclass(frozen=True)
class Difference:
    """One object that is not as it should be; `is_missing` when it is not there at all.

    `text` is a unified diff from what is there to what should be, or why that is not known.
    """

    title: str
    text: str
    is_missing: bool = False


def objects(api: Api, config: Config) -> list[Object]:
    """Return what the cluster should have: the site's objects, and those of users who are there."""
    return [*site.objects(config), *_users_objects(api, config)]


def _users_objects(api: Api, config: Config) -> Iterator[Object]:
    for namespace in user_namespaces(api, config):
        labels = namespace["metadata"]["labels"]
        yield from site.user_objects(
            namespace["metadata"]["name"],
            (labels.get(user_namespace.USER, ""), labels.get(user_namespace.UID, "")),
            config.kubernetes.namespace,
            host_network=config.sandbox.host_network,
        )


def user_namespaces(api: Api, config: Config) -> list[Object]:
    """Return the namespaces of the site's users that agents have made so far."""
    if not config.kubernetes.user_namespaces:
        return []
    selector = f"{user_namespace.SITE}={config.kubernetes.namespace}"
    return list(api.get("/api/v1/namespaces", labelSelector=selector)["items"])


def refuse_foreign(api: Api, wanted: Sequence[Object]) -> None:
    """Raise `PermanentError` if the namespace is there and nobody gave it to sbridge.

    Its Pod Security level would be lowered, and the policy would refuse the pods that are made
    in it for other purposes.
    """
    for item in wanted:
        live = api.find(site.path(item)) if item["kind"] == "Namespace" else None
        labels = live["metadata"].get("labels", {}) if live else {}
        if live and labels.get(site.MANAGED_BY) != "sbridge":
            name = item["metadata"]["name"]
            raise PermanentError(
                f"namespace {name} is there already, and not sbridge's (it has no label"
                f" {site.MANAGED_BY}=sbridge)",
                hint="Name another one in kubernetes.namespace. `--adopt` takes it over: it then"
                " admits sandboxes and no other pods.",
            )


def install(api: Api, wanted: Sequence[Object]) -> Iterator[Outcome]:
    """Make each object what it should be, in their order; goes on after one that is refused."""
    for item in wanted:
        title = site.title(item)
        try:
            before = api.find(site.path(item))
            after = api.apply(site.path(item), item)
        except RefusedError as error:
            yield Outcome(title, "refused", error.message)
            continue
        if before is None:
            yield Outcome(title, "created")
        else:
            # Not by resourceVersion: the server counts a new order of its own notes as a change.
            is_same = _shown(before) == _shown(after)
            yield Outcome(title, "unchanged" if is_same else "changed")


def differences(api: Api, wanted: Sequence[Object]) -> Iterator[Difference]:
    """Compare each object with the cluster's, which nothing of this changes."""
    for item in wanted:
        title = site.title(item)
        try:
            live = api.find(site.path(item))
            if live is None:
                yield Difference(title, _diff(title, "", yaml_text.document(item)), is_missing=True)
                continue
            applied = api.apply(site.path(item), item, dry_run=True)
        except RefusedError as error:
            yield Difference(title, f"{title}: {error.message}\n")
            continue
        text = _diff(title, _shown(live), _shown(applied))
        if text:
            yield Difference(title, text)


def _shown(item: Object) -> str:
    metadata = {k: v for k, v in item["metadata"].items() if k not in _SERVERS_OWN}
    wishes = {k: v for k, v in item.items() if k != "status"}
    return yaml_text.document({**wishes, "metadata": metadata})


def _diff(title: str, live: str, wanted: str) -> str:
    lines = difflib.unified_diff(
        live.splitlines(keepends=True),
        wanted.splitlines(keepends=True),
        f"{title} in the cluster" if live else "/dev/null",
        f"{title} as configured",
    )
    return "".join(lines)
