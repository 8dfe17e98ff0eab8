"""A pod that is there for as long as somebody looks at it, and of which nothing stays.

For people at a terminal, who may press Ctrl-C at any moment: that sets an event, which is looked
at where nothing is half done. Each pod has a label that is its own and is found again by it, also
when the API server never answered that it has created it. One that outlives even that (kill -9)
is ended by its kubelet and swept by whoever comes next.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType

from bridge.errors import PermanentError, SbridgeError, TemporaryError
from bridge.runtimes.kubernetes import refusal, user_namespace
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError
from bridge.runtimes.kubernetes.pod_creation import PodCreation
from bridge.runtimes.manifest import SHORT_LIVED

_LOOK_S = 0.3
_GONE_TIMEOUT_S = 40.0  # a kubelet takes its time to end what it was about to start
_AFTER_DEADLINE_S = 60.0


class CancelledError(SbridgeError):
    """Somebody does not want to wait any more."""


class ShortLivedPod:
    """Creates the pod of `manifest` when entered, and removes it when left.

    `namespace` is the site's own, where it is made unless it names another one.
    The pod is ended by its kubelet after `deadline_s`, whatever happens here.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        manifest: Object,
        deadline_s: float,
        cancelled: threading.Event,
    ) -> None:
        self._api = api
        self._cancelled = cancelled
        self._creation = PodCreation(api, namespace)
        place = user_namespace.of_pod(manifest, namespace)
        self._pods = f"/api/v1/namespaces/{place}/pods"
        self._events = f"/api/v1/namespaces/{place}/events"
        mark = uuid.uuid4().hex
        self._selector = f"{SHORT_LIVED}={mark}"
        metadata = manifest["metadata"]
        labels = {**metadata.get("labels", {}), SHORT_LIVED: mark}
        spec = {**manifest["spec"], "activeDeadlineSeconds": int(deadline_s)}
        self._wanted = {**manifest, "metadata": {**metadata, "labels": labels}, "spec": spec}

    @property
    def name(self) -> str:
        return str(self._wanted["metadata"]["name"])

    def __enter__(self) -> "ShortLivedPod":
        """Raise whatever says who is to blame when the pod cannot be created."""
        try:
            self._creation.create(self._wanted)
        except RefusedError as error:
            if error.reason == "AlreadyExists":
                hint = f"`kubectl delete pod {self.name}` removes one that was left behind."
                raise PermanentError(f"pod {self.name} is there already", hint=hint) from error
            raise refusal.blame(error, f"pod {self.name}") from error
        except TemporaryError:  # it may have been created all the same
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def looks(self, timeout_s: float) -> Iterator[tuple[Object, list[Object]]]:
        """Yield the pod and its events, oldest first, again and again for `timeout_s`.

        Raises `TemporaryError` when somebody deletes it, `CancelledError` on that.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._cancelled.is_set():
                raise CancelledError(f"not waiting for pod {self.name} any more")
            pod = self._look()
            if pod is None:
                raise TemporaryError(f"pod {self.name} was deleted by somebody else")
            selector = f"involvedObject.uid={pod['metadata']['uid']}"
            events = self._api.get(self._events, fieldSelector=selector)["items"]
            yield pod, sorted(events, key=_when)
            self._cancelled.wait(_LOOK_S)

    def _look(self) -> Object | None:
        """Return the pod, by a list: an agent's credentials allow that, too."""
        found = self._api.get(self._pods, labelSelector=self._selector)["items"]
        return found[0] if found else None

    def _remove(self) -> None:
        """Delete it and see it gone; with its own uid, so never another one of that name."""
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        reason = ""
        while time.monotonic() < deadline:
            try:
                pod = self._look()
                if pod is None:
                    return
                if not pod["metadata"].get("deletionTimestamp"):
                    path = f"{self._pods}/{self.name}"
                    # Not 0: then the API server would forget it before its kubelet has ended it.
                    self._api.delete(path, grace_s=1, uid=pod["metadata"]["uid"])
                reason = "its kubelet does not say that it has ended"
            except SbridgeError as error:
                reason = error.message
            time.sleep(_LOOK_S)
        hint = f"`kubectl delete pod {self.name}` removes it."
        raise PermanentError(f"pod {self.name} may still be there: {reason}", hint=hint)


def sweep(api: Api, namespace: str) -> None:
    """Remove the pods whose commands were killed: their time is over by far."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for pod in api.get(pods, labelSelector=SHORT_LIVED)["items"]:
        metadata = pod["metadata"]
        age = datetime.now(UTC) - datetime.fromisoformat(metadata["creationTimestamp"])
        life_s = pod["spec"].get("activeDeadlineSeconds", 0) + _AFTER_DEADLINE_S
        if age.total_seconds() > life_s:
            api.delete(f"{pods}/{metadata['name']}", uid=metadata["uid"])


def _when(event: Object) -> str:
    return str(event.get("firstTimestamp") or event.get("eventTime") or "")
