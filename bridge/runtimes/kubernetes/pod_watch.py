"""What the cluster says of this node's pods: one list, then one watch, for the whole agent.

1. listing    all pods with the selector are read; only then is anything known to be absent
2. watching   each change is applied; ends now and then, and goes on where it ended
3. away       the API does not answer: what was known stays, and nothing counts as gone
Back to 1 when the cluster no longer has the version that the watch would go on from.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes.kubernetes import waiting
from bridge.runtimes.kubernetes.api import Api, ExpiredError, Object

_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 5.0


class PodWatch:
    """The pods at `path` with the labels of `selector`, kept up to date by a thread.

    `on_ended` is called with name and reason of each pod that was seen to end.
    """

    def __init__(
        self, api: Api, path: str, selector: str, log: Any, on_ended: Callable[[str, str], None]
    ) -> None:
        self._api = api
        self._path = path
        self._selector = selector
        self._log = log
        self._on_ended = on_ended
        self._pods: dict[str, Object] = {}
        self._created: set[str] = set()  # by us, since the pods were last asked for
        self._version = ""
        self._changed = threading.Condition()
        self._away = "the pods were not listed yet"
        self._away_since = time.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._follow, name="pod-watch", daemon=True).start()

    def pod(self, name: str) -> Object | None:
        """Return the pod as last seen; None when it was not seen, or was seen to be gone."""
        with self._changed:
            return self._pods.get(name)

    def names(self) -> set[str]:
        """Return the names of all pods; raises `TemporaryError` while the API is away."""
        with self._changed:
            if self._away:
                raise TemporaryError(self._away)
            return set(self._pods)

    def listed(self, name: str) -> Object | None:
        """Return the pod, None when there is none; raises `TemporaryError` like `names`."""
        with self._changed:
            if self._away:
                raise TemporaryError(self._away)
            return self._pods.get(name)

    def wait_for_api(self, timeout_s: float) -> None:
        """Return as soon as the API answers, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._away, timeout_s)

    @property
    def away(self) -> str:
        """Why the API does not answer, empty while it does."""
        with self._changed:
            return self._away

    def saw(self, pod: Object) -> None:
        """Take what a request of our own returned, if it is news."""
        with self._changed:
            known = self._pods.get(pod["metadata"]["name"])
            if known is None or known["metadata"]["uid"] != pod["metadata"]["uid"]:
                self._created.add(pod["metadata"]["name"])
                self._put(pod)

    def wait(self, name: str, seen: Object | None, timeout_s: float) -> Object | None:
        """Return the pod as soon as it is not `seen` any more, or after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._pods.get(name) is not seen, timeout_s)
            return self._pods.get(name)

    def _follow(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                if not self._version:
                    self._list()
                self._watch()
                retry_s = _FIRST_RETRY_S
            except ExpiredError:
                self._version = ""
            except TemporaryError as error:
                self._lost(error.message)
                time.sleep(retry_s)
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
            except Exception as error:  # noqa: BLE001 - the API's no to the agent, or a bug
                self._version = ""
                text = error.message if isinstance(error, SbridgeError) else repr(error)
                self._lost(f"the pods cannot be watched: {text}")
                time.sleep(_LONGEST_RETRY_S)

    def _list(self) -> None:
        with self._changed:
            self._created.clear()
        answer = self._api.get(self._path, labelSelector=self._selector)
        pods = {pod["metadata"]["name"]: pod for pod in answer["items"]}
        with self._changed:
            # The list may be older than what was created while it was on its way.
            pods = {name: self._pods[name] for name in self._created} | pods
            lost = self._pods.keys() - pods.keys()
            self._pods = pods
            self._version = answer["metadata"]["resourceVersion"]
            self._found()
        for name in lost:
            self._on_ended(name, "its pod was deleted while the Kubernetes API was away")

    def _watch(self) -> None:
        events = self._api.watch(self._path, self._version, labelSelector=self._selector)
        with self._changed:
            self._found()
        for event in events:
            self._version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._apply(event["object"], is_gone=event["type"] == "DELETED")

    def _apply(self, pod: Object, *, is_gone: bool) -> None:
        name = pod["metadata"]["name"]
        with self._changed:
            self._created.discard(name)
            if is_gone:
                self._pods.pop(name, None)
                self._changed.notify_all()
            else:
                self._put(pod)
        why = waiting.ended(pod, is_gone=is_gone)
        if why:
            self._on_ended(name, why)

    def _put(self, pod: Object) -> None:
        self._pods[pod["metadata"]["name"]] = pod
        self._changed.notify_all()

    def _found(self) -> None:
        if self._away:
            away_s = round(time.monotonic() - self._away_since, 1)
            self._log.info("kubernetes_api_answers", away_s=away_s)
        self._away = ""
        self._changed.notify_all()

    def _lost(self, reason: str) -> None:
        with self._changed:
            if not self._away:
                self._away_since = time.monotonic()
                self._log.warning("kubernetes_api_lost", reason=reason)
            self._away = reason
            self._changed.notify_all()
