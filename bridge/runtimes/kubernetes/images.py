"""Bring images to nodes before jobs need them, and tell which node has which.

A node's kubelet fetches an image for a pod only. So each image gets a pod on each node, whose
program does not exist: the kubelet fetches the image, fails to start it, and that is all.
"""

import fnmatch
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bridge.config import Kubernetes
from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes import manifest
from bridge.runtimes.kubernetes import checkup, pulling, waiting
from bridge.runtimes.kubernetes.api import Api, Object
from bridge.runtimes.kubernetes.pulling import Pull
from bridge.runtimes.kubernetes.short_lived import CancelledError, ShortLivedPod

MOST_REPORTED = 50  # images of a node; kubelet's nodeStatusMaxImages, the largest first

_NOBODY = 65534
_NO_PROGRAM = "/sbridge/there-is-no-such-program"
_REMOVAL_S = 60
_LATE_EVENT_LOOKS = 10  # until the kubelet's word about a pull that is done can be read
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]")


@dataclass(frozen=True)
class Pulled:
    """What became of one image on one node; `trouble` says why it is not there."""

    node: str
    image: str
    pull: Pull = Pull()
    trouble: str = ""


def pull(
    api: Api,
    settings: Kubernetes,
    images: Sequence[str],
    nodes: Sequence[Object],
    parallel: int,
    timeout_s: float,
    cancelled: threading.Event,
    tell: Callable[[Pulled | tuple[str, str]], None],
) -> bool:
    """Bring `images` to the Kubernetes `nodes`, `parallel` of them at a time; whether all came.

    `timeout_s` is for one image on one node. `tell` is called from several threads with words of
    progress about a node, and with each result.
    """
    if not nodes:
        return False
    puller = _Puller(api, settings, timeout_s, cancelled, tell)
    with ThreadPoolExecutor(max_workers=min(parallel, len(nodes))) as workers:
        done = workers.map(lambda node: puller.pull_all(images, node), nodes)
        return all(list(done))


class _Puller:
    def __init__(
        self,
        api: Api,
        settings: Kubernetes,
        timeout_s: float,
        cancelled: threading.Event,
        tell: Callable[[Pulled | tuple[str, str]], None],
    ) -> None:
        self._api = api
        self._settings = settings
        self._timeout_s = timeout_s
        self._cancelled = cancelled
        self._tell = tell

    def pull_all(self, images: Sequence[str], node: Object) -> bool:
        """Pull one after the other, as the kubelet would; whether all are there now."""
        name = node["metadata"]["name"]
        trouble = checkup.trouble(node, _tolerations(self._settings))
        results = [Pulled(name, image, trouble=trouble) for image in images]
        for index, image in enumerate(images):
            if not trouble:
                results[index] = self._pull(image, name)
            self._tell(results[index])
        return not any(result.trouble for result in results)

    def _pull(self, image: str, node: str) -> Pulled:
        try:
            return Pulled(node, image, self._pull_one(image, node))
        except SbridgeError as error:
            return Pulled(node, image, trouble=error.message)

    def _pull_one(self, image: str, node: str) -> Pull:
        if self._cancelled.is_set():
            raise CancelledError("not begun")
        wanted = pod(self._settings, image, node)
        deadline_s = self._timeout_s + _REMOVAL_S
        said = ""
        late = 0
        with ShortLivedPod(
            self._api, self._settings.namespace, wanted, deadline_s, self._cancelled
        ) as made:
            for live, events in made.looks(self._timeout_s):
                found = pulling.pull_of(events)
                if found is not None:
                    return found
                if _is_past_pulling(live):
                    late += 1
                    if late > _LATE_EVENT_LOOKS:
                        return Pull()
                    continue
                words = waiting.progress(live, events).text
                if words not in (said, f"starting {image}"):
                    self._tell((node, words))
                said = words
        raise TemporaryError(f"not there after {self._timeout_s:g} s: {said}")


def _is_past_pulling(live: Object) -> bool:
    """Whether the kubelet has the image: it tried, or will try, to start the container."""
    statuses = live.get("status", {}).get("containerStatuses") or [{}]
    state = statuses[0].get("state", {})
    reason = state.get("waiting", {}).get("reason", "")
    return "running" in state or "terminated" in state or reason in waiting.CREATE_REASONS


def pod(settings: Kubernetes, image: str, node: str) -> Object:
    """Return the pod that has `node` fetch `image`, also one that it has under that name."""
    site = manifest.Site.of(settings, "")
    name = f"image-pull-{_NOT_IN_NAMES.sub('-', node.lower())[:40]}-{uuid.uuid4().hex[:8]}"
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "affinity": manifest.affinity(node),
        "priorityClassName": site.priority_class,
        "imagePullSecrets": [{"name": name} for name in site.pull_secrets],
        "tolerations": _tolerations(settings),
        "securityContext": {
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "image",
                "image": image,
                "imagePullPolicy": "Always",
                "command": [_NO_PROGRAM],
                "workingDir": "/",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    labels = {
        "app": "sbridge-image-pull",
        "app.kubernetes.io/name": "sbridge-image-pull",
        "app.kubernetes.io/managed-by": "sbridge",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {key: value for key, value in spec.items() if value != ""},
    }


def _tolerations(settings: Kubernetes) -> list[dict[str, str]]:
    """Return the site's, and one for cordoned nodes: these are the ones with time for it."""
    cordon = {"key": checkup.CORDON, "operator": "Exists", "effect": "NoSchedule"}
    return [*manifest.Site.of(settings, "").tolerations, cordon]


@dataclass(frozen=True)
class Image:
    """An image, by all its names, its size and the nodes that have it."""

    names: tuple[str, ...]
    size_bytes: int
    nodes: tuple[str, ...]

    @property
    def size(self) -> str:
        return pulling.size_text(self.size_bytes)

    @property
    def title(self) -> str:
        """Its names with tags, where it has any."""
        tagged = [name for name in self.names if "@" not in name]
        return ", ".join(tagged or self.names)


def listed(nodes: Iterable[Object], pattern: str = "*") -> list[Image]:
    """Return the images that the Kubernetes `nodes` last reported, by name."""
    places: dict[tuple[str, ...], list[str]] = {}
    sizes: dict[tuple[str, ...], int] = {}
    for node in nodes:
        for image in node.get("status", {}).get("images") or []:
            names = tuple(image.get("names") or ())
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                places.setdefault(names, []).append(node["metadata"]["name"])
                sizes[names] = image.get("sizeBytes", 0)
    images = [Image(names, sizes[names], tuple(sorted(at))) for names, at in places.items()]
    return sorted(images, key=lambda image: image.title)


def incomplete(nodes: Iterable[Object]) -> list[str]:
    """Return the nodes that may have more images than they report."""
    return sorted(
        node["metadata"]["name"]
        for node in nodes
        if len(node.get("status", {}).get("images") or []) >= MOST_REPORTED
    )
