"""Make a pod really gone: its processes at once, its object as soon as the API lets us.

The kernel ends the processes here and now, which is what frees the node; then the object is
removed from the API. While that does not answer, the removal is remembered and tried again.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

from bridge import kernel
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes.kubernetes import processes
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox

_LOOK_S = 1.0
_GONE_TIMEOUT_S = 10.0
_RETRY_S = 5.0


@dataclass(frozen=True, eq=False)
class _Rest:
    """What one removal has left to do: remove the pods with these uids, or of its name, if none."""

    uids: frozenset[str]


class PodRemoval:
    """Removes pods; those that the watch has not seen yet, in the namespace they were expected in.

    That is `namespace` where nobody said another one.
    """

    def __init__(self, api: Api, namespace: str, watch: PodWatch, log: Any) -> None:
        self._api = api
        self._namespace = namespace
        self._watch = watch
        self._log = log
        self._expected: dict[str, str] = {}
        self._unremoved: dict[str, _Rest] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to remove what could not be removed at first."""
        threading.Thread(target=self._retry_for_ever, name="pod-removal", daemon=True).start()

    def expect(self, name: str, namespace: str) -> None:
        """Remove no pod of this name later: a new one is about to have it, in `namespace`."""
        with self._lock:
            self._unremoved.pop(name, None)
            self._expected[name] = namespace

    def remove(self, name: str, sandbox: Sandbox | None) -> None:
        """Kill the pod's processes, remove its object; later, if the API does not answer."""
        pods = self._watch.pods(name)
        uids = {pod["metadata"]["uid"] for pod in pods}
        if sandbox is not None:
            _kill_init(sandbox)
            uids = uids or {processes.pod_uid(sandbox.cgroup)} - {""}
        try:
            are_gone = all(processes.kill_pod(uid) for uid in uids)
        except OSError as error:
            raise NodeError(f"processes of sandbox {name} cannot be looked for: {error}") from error
        if not are_gone:
            raise NodeError(f"processes of sandbox {name} cannot be killed")
        try:
            self._delete(name, pods, uids)
        except (TemporaryError, RefusedError) as error:
            # The node is free, which is what Slurm waits for; the books follow.
            self._log.warning("pod_removal_delayed", sandbox=name, reason=error.message)
            with self._lock:
                self._unremoved[name] = _Rest(frozenset(uids))
        else:
            with self._lock:
                self._expected.pop(name, None)

    def _delete(self, name: str, pods: list[Object], uids: set[str]) -> None:
        """Remove the objects and wait until the watch has seen that, too."""
        if not pods:
            place = self._expected.get(name)
            path = _path(place or self._namespace, name)
            self._api.delete(path, grace_s=0, uid="".join(uids))
            if place is None:
                self._watch.listed(name)  # or else it may be in another namespace
        for pod in pods:
            self._delete_pod(pod)
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        for seen in pods or self._watch.pods(name):
            self._wait(seen, deadline)

    def _delete_pod(self, pod: Object) -> None:
        metadata = pod["metadata"]
        path = _path(metadata["namespace"], metadata["name"])
        self._api.delete(path, grace_s=0, uid=metadata["uid"])

    def _wait(self, pod: Object | None, deadline: float) -> None:
        while pod is not None:
            if time.monotonic() > deadline or self._watch.away:
                return  # it is gone, the watch will tell later
            pod = self._watch.wait(pod, _LOOK_S)

    def _retry_for_ever(self) -> None:
        while True:
            time.sleep(_RETRY_S)
            with self._lock:
                due = list(self._unremoved.items())
            for name, rest in due:
                self._remove_late(name, rest)

    def _remove_late(self, name: str, rest: _Rest) -> None:
        """Remove a pod that is left; by its uid, as another may have its name by now."""
        try:
            with self._lock:  # so that no new pod of that name is among them
                if self._unremoved.get(name) is not rest:
                    return
                pods = self._watch.listed(name)
            for uid in rest.uids or {pod["metadata"]["uid"] for pod in pods}:
                processes.kill_pod(uid)  # the kubelet may have made it since
            for pod in pods:
                if not rest.uids or pod["metadata"]["uid"] in rest.uids:
                    self._delete_pod(pod)
        except (TemporaryError, RefusedError, OSError):  # OSError: out of descriptors, for now
            return
        self._log.info("pod_removed_late", sandbox=name)
        with self._lock:
            if self._unremoved.get(name) is rest:
                del self._unremoved[name]
                self._expected.pop(name, None)


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _kill_init(sandbox: Sandbox) -> None:
    """Kill the sandbox's first process, and with it all that entered, if it still is the one."""
    try:
        process = kernel.open_process(sandbox.init_pid)
    except OSError:
        return
    try:
        if kernel.start_ticks(process) == sandbox.init_start:
            signal.pidfd_send_signal(process, signal.SIGKILL)  # whoever has its pid by now
    except OSError:
        pass  # it ended by itself
    finally:
        os.close(process)
