"""What the cluster says of this node's pods: one list, then one watch, for the whole agent.

1. listing    all pods with the selector are read; only then is anything known to be absent
2. watching   each change is applied; ends now and then, and goes on where it ended
3. away       the API does not answer: what was known stays, and nothing counts as gone
Back to 1 when the cluster no longer has the version that the watch would go on from.

Pods are told apart by their uids: two namespaces may hold one of the same name.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes.kubernetes import waiting
from bridge.runtimes.kubernetes.api import Api, ExpiredError, Object
from bridge.runtimes.kubernetes.pod_scope import PodScope

_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 5.0
_SHORT_S = 5.0  # a watch that goes on for so long was worth its request


class PodWatch:
    """The pods of `scope` with the labels of `selector`, kept up to date by a thread.

    `on_ended` is called with name and reason of each pod that was seen to end.
    """

    def __init__(
        self,
        api: Api,
        scope: PodScope,
        selector: str,
        log: Any,
        on_ended: Callable[[str, str], None],
    ) -> None:
        self._api = api
        self._scope = scope
        self._selector = selector
        self._log = log
        self._on_ended = on_ended
        self._pods: dict[str, Object] = {}  # by uid
        self._created: set[str] = set()  # by us, since the pods were last asked for
        self._version = ""
        self._changed = threading.Condition()
        self._away = "the pods were not listed yet"
        self._away_since = time.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._follow, name="pod-watch", daemon=True).start()

    def pods(self, name: str) -> list[Object]:
        """Return the pods of that name as last seen; rarely more than one."""
        with self._changed:
            return self._named(name)

    def names(self) -> set[str]:
        """Return the names of all pods; raises `TemporaryError` while the API is away."""
        with self._changed:
            if self._away:
                raise TemporaryError(self._away)
            return {pod["metadata"]["name"] for pod in self._pods.values()}

    def listed(self, name: str) -> list[Object]:
        """Return the pods of that name; raises `TemporaryError` like `names`."""
        with self._changed:
            if self._away:
                raise TemporaryError(self._away)
            return self._named(name)

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
        uid = pod["metadata"]["uid"]
        with self._changed:
            if uid not in self._pods:
                self._created.add(uid)
                self._pods[uid] = pod
                self._changed.notify_all()

    def wait(self, seen: Object, timeout_s: float) -> Object | None:
        """Return the pod as soon as it is not `seen` any more, or after `timeout_s`.

        None means that it is gone.
        """
        uid = seen["metadata"]["uid"]
        with self._changed:
            self._changed.wait_for(lambda: self._pods.get(uid) is not seen, timeout_s)
            return self._pods.get(uid)

    def _follow(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    self._list()
                self._watch()
            except ExpiredError as error:
                self._version = ""
                self._log.info("pod_watch_expired", reason=error.message)
            except TemporaryError as error:
                self._lost(error.message)
            except Exception as error:  # noqa: BLE001 - the API's no to the agent, or a bug
                self._version = ""
                text = error.message if isinstance(error, SbridgeError) else repr(error)
                self._lost(f"the pods cannot be watched: {text}")
                retry_s = _LONGEST_RETRY_S
            if time.monotonic() - began > _SHORT_S:
                retry_s = _FIRST_RETRY_S
            else:
                time.sleep(retry_s)
                retry_s = min(retry_s * 2, _LONGEST_RETRY_S)

    def _list(self) -> None:
        with self._changed:
            self._created.clear()
        answer = self._api.get(self._scope.find(), labelSelector=self._selector)
        items = filter(self._scope.covers, answer["items"])
        pods = {pod["metadata"]["uid"]: pod for pod in items}
        with self._changed:
            # The list may be older than what was created while it was on its way.
            pods = {uid: self._pods[uid] for uid in self._created} | pods
            lost = [pod for uid, pod in self._pods.items() if uid not in pods]
            self._pods = pods
            self._version = answer["metadata"]["resourceVersion"]
            self._found()
            present = list(pods.values())
        for pod in lost:
            self._tell(pod, "its pod was deleted while the Kubernetes API was away")
        for pod in present:
            self._tell_end(pod, is_gone=False)

    def _watch(self) -> None:
        events = self._api.watch(self._scope.path, self._version, labelSelector=self._selector)
        with self._changed:
            self._found()
        for event in events:
            self._version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK" and self._scope.covers(event["object"]):
                self._apply(event["object"], is_gone=event["type"] == "DELETED")

    def _apply(self, pod: Object, *, is_gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        with self._changed:
            self._created.discard(uid)
            if is_gone:
                self._pods.pop(uid, None)
            else:
                self._pods[uid] = pod
            self._changed.notify_all()
        self._tell_end(pod, is_gone=is_gone)

    def _tell_end(self, pod: Object, *, is_gone: bool) -> None:
        why = waiting.ended(pod, is_gone=is_gone)
        if why:
            self._tell(pod, why)

    def _tell(self, ended: Object, why: str) -> None:
        """Tell of a pod's end, unless another one has taken its place."""
        name, uid = ended["metadata"]["name"], ended["metadata"]["uid"]
        others = [pod for pod in self.pods(name) if pod["metadata"]["uid"] != uid]
        if all(waiting.ended(pod, is_gone=False) for pod in others):
            self._on_ended(name, why)

    def _named(self, name: str) -> list[Object]:
        return [pod for pod in self._pods.values() if pod["metadata"]["name"] == name]

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
