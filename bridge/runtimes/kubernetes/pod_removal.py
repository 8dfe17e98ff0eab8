"""Make a pod really gone: its processes at once, its object as soon as the API lets us.

The kernel ends the processes here and now, which is what frees the node; then the object is
removed from the API. While that does not answer, the removal is remembered and tried again.
"""

import os
import signal
import threading
import time
from typing import Any

from bridge import kernel
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes.kubernetes import processes
from bridge.runtimes.kubernetes.api import Api, RefusedError
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox

_LOOK_S = 1.0
_GONE_TIMEOUT_S = 10.0
_RETRY_S = 5.0


class PodRemoval:
    """Removes pods of the collection at `path`."""

    def __init__(self, api: Api, path: str, watch: PodWatch, log: Any) -> None:
        self._api = api
        self._path = path
        self._watch = watch
        self._log = log
        self._unremoved: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to remove what could not be removed at first."""
        threading.Thread(target=self._retry_for_ever, name="pod-removal", daemon=True).start()

    def forget(self, name: str) -> None:
        """Remove no pod of this name later: a new one is about to have it."""
        with self._lock:
            self._unremoved.pop(name, None)

    def remove(self, name: str, sandbox: Sandbox | None) -> None:
        """Kill the pod's processes, remove its object; later, if the API does not answer."""
        pod = self._watch.pod(name)
        uid = pod["metadata"]["uid"] if pod else ""
        if sandbox is not None:
            _kill_init(sandbox)
            uid = uid or processes.pod_uid(sandbox.cgroup)
        if uid and not processes.kill_pod(uid):
            raise NodeError(f"processes of sandbox {name} cannot be killed")
        try:
            self._delete(name, uid)
        except (TemporaryError, RefusedError) as error:
            # The node is free, which is what Slurm waits for; the books follow.
            self._log.warning("pod_removal_delayed", sandbox=name, reason=error.message)
            with self._lock:
                self._unremoved[name] = uid

    def _delete(self, name: str, uid: str) -> None:
        """Remove the object and wait until the watch has seen that, too."""
        self._api.delete(f"{self._path}/{name}", grace_s=0, uid=uid)
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        seen = self._watch.pod(name)
        while seen is not None and (not uid or seen["metadata"]["uid"] == uid):
            if time.monotonic() > deadline or self._watch.away:
                return  # it is gone, the watch will tell later
            seen = self._watch.wait(name, seen, _LOOK_S)

    def _retry_for_ever(self) -> None:
        while True:
            time.sleep(_RETRY_S)
            with self._lock:
                due = list(self._unremoved.items())
            for name, uid in due:
                self._remove_late(name, uid)

    def _remove_late(self, name: str, uid: str) -> None:
        """Remove a pod that is left; by its uid, as another may have its name by now."""
        try:
            pod = self._watch.listed(name)
            uid = uid or (pod["metadata"]["uid"] if pod else "")
            if uid:
                processes.kill_pod(uid)  # the kubelet may have made it since
                self._api.delete(f"{self._path}/{name}", grace_s=0, uid=uid)
        except (TemporaryError, RefusedError):
            return
        self._log.info("pod_removed_late", sandbox=name)
        self.forget(name)


def _kill_init(sandbox: Sandbox) -> None:
    """Kill the sandbox's first process, and with it all that entered, if it still is the one."""
    try:
        process = kernel.open_process(sandbox.init_pid)
    except OSError:
        return
    try:
        if kernel.start_ticks(process) == sandbox.init_start:
            os.kill(sandbox.init_pid, signal.SIGKILL)
    except OSError:
        pass  # it ended by itself
    finally:
        os.close(process)
