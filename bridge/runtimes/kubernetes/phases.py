"""Our own events on the pods, so that `kubectl describe` tells the whole story of a job.

Told by a thread, after the fact: nothing waits for them, and one that cannot be told is lost.
Follows the v1 Event of the Kubernetes API reference.
"""

import queue
import threading
from datetime import UTC, datetime
from typing import Any

from bridge.errors import SbridgeError
from bridge.runtimes.kubernetes.api import Api, Object

_MOST_UNTOLD = 1000
_LONGEST_MESSAGE = 1000  # the API server refuses more than 1024


class Phases:
    """Tells of each pod what happens with its job."""

    def __init__(self, api: Api, node: str, log: Any) -> None:
        self._api = api
        self._node = node
        self._log = log
        self._untold: queue.Queue[tuple[str, Object]] = queue.Queue(_MOST_UNTOLD)

    def start(self) -> None:
        """Begin to tell."""
        threading.Thread(target=self._tell, name="phases", daemon=True).start()

    def say(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Have an event told of `pod`; `reason` is one CamelCase word."""
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/events"
        event = _event(pod, self._node, reason, message[:_LONGEST_MESSAGE], warning=warning)
        try:
            self._untold.put_nowait((path, event))
        except queue.Full:
            self._log.debug("phase_untold", pod=pod["metadata"]["name"], reason="too many")

    def _tell(self) -> None:
        while True:
            path, event = self._untold.get()
            try:
                self._api.create(path, event)
            except SbridgeError as error:
                name = event["involvedObject"]["name"]
                self._log.debug("phase_untold", pod=name, reason=error.message)


def _event(pod: Object, node: str, reason: str, message: str, *, warning: bool) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "source": {"component": "sbridge-agent", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
