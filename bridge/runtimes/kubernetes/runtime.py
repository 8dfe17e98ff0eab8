"""Sandboxes as pods: create one, wait for it by the one watch, and make it really gone.

A pod is placed by the cluster's scheduler, which may choose this node only, so cordons,
taints and what else is in Kubernetes' books count. It runs when the kubelet said so and its
first process is found on this node. At the end the processes are killed here, which is
true at once, and then the pod's object is removed; while the API is away that is remembered.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge import kernel
from bridge.config import Kubernetes
from bridge.durable import write_atomically
from bridge.errors import NodeError, TemporaryError
from bridge.job_spool import JobSpool
from bridge.runtimes import manifest
from bridge.runtimes.kubernetes import processes, waiting
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError
from bridge.runtimes.kubernetes.phases import Phases
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox, SandboxSpec, Waiter

_LOOK_S = 1.0  # how soon a cancelled waiter is noticed, and how often a slow pod's events are read
_SLOW_S = 1.0
_EVENTS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # after so long are a slow pod's events read; then each 15 s
_GONE_TIMEOUT_S = 10.0
_RETRY_REMOVAL_S = 5.0
_STRAY_AGE = timedelta(minutes=10)  # its own agent had two reconciliations' time


class KubernetesRuntime:
    """The pods of one Slurm node's agent.

    `timeout_s` bounds the wait for a pod; `on_ended` is called with the name of each pod that
    ends, whoever ended it, and the reason in Kubernetes' words.
    """

    def __init__(
        self,
        settings: Kubernetes,
        node: str,
        timeout_s: float,
        log: Any,
        on_ended: Callable[[str, str], None],
    ) -> None:
        self._timeout_s = timeout_s
        self._log = log
        self._node_label = manifest.label(node)
        self._site = manifest.Site.of(settings, node)
        self._api = Api(settings)
        self._pods = f"/api/v1/namespaces/{settings.namespace}/pods"
        self._watch = PodWatch(self._api, self._pods, manifest.selector(node), log, on_ended)
        self._phases = Phases(self._api, node, log)
        self._unremoved: dict[str, str] = {}
        self._unremoved_lock = threading.Lock()
        self._watch.start()
        self._phases.start()
        threading.Thread(target=self._remove_for_ever, name="pod-removal", daemon=True).start()

    def start(self, spec: SandboxSpec, spool: JobSpool, waiter: Waiter) -> Sandbox:
        """Create the pod and wait until it runs."""
        wanted = manifest.pod(spec, self._site)
        content = json.dumps(wanted, indent=1).encode()
        write_atomically(spool.manifest, content, survives_power_loss=False)
        waiter.say("waiting for the Kubernetes API")
        pod = self._create(wanted)
        try:
            pod = self._wait_until_running(pod, waiter)
            sandbox = self._entry(pod)
        except BaseException:
            self.remove(spec.name, None)
            raise
        self._phases.say(
            pod, "SandboxReady", f"Slurm job {spec.run.job_id} of {spec.user} may begin"
        )
        return sandbox

    def _create(self, wanted: Object) -> Object:
        name = wanted["metadata"]["name"]
        try:
            return self._created(wanted)
        except RefusedError as error:
            if error.reason != "AlreadyExists":
                raise waiting.refused(error, f"pod {name}") from error
        self.remove(name, None)  # left by a try that was cut short
        try:
            return self._created(wanted)
        except RefusedError as error:
            if error.reason == "AlreadyExists":
                raise TemporaryError(f"an earlier pod {name} is still being removed") from error
            raise waiting.refused(error, f"pod {name}") from error

    def _created(self, wanted: Object) -> Object:
        with self._unremoved_lock:  # the name is taken again: nobody may remove it any more
            self._unremoved.pop(wanted["metadata"]["name"], None)
        pod = self._api.create(self._pods, wanted)
        self._watch.saw(pod)
        return pod

    def _wait_until_running(self, created: Object, waiter: Waiter) -> Object:
        name, uid = created["metadata"]["name"], created["metadata"]["uid"]
        began = time.monotonic()
        events = _SlowEvents(self._api, created)
        pod: Object | None = created
        while True:
            if pod is None or pod["metadata"]["uid"] != uid:
                raise TemporaryError(f"pod {name} was deleted from outside while it was starting")
            if waiting.is_running(pod):
                return pod
            waited_s = time.monotonic() - began
            said = waiting.progress(pod, events.after(waited_s))
            waiter.say(self._watch.away or said)
            if waiter.cancelled.is_set():
                raise TemporaryError("the job is over")
            if waited_s > self._timeout_s:
                raise TemporaryError(said)
            pod = self._watch.wait(name, pod, _LOOK_S)

    def _entry(self, pod: Object) -> Sandbox:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        try:
            process = processes.init_of(waiting.container_id(pod))
        except OSError as error:
            where = pod["spec"].get("nodeName")
            raise TemporaryError(
                f"pod {name} runs on {where}, but its processes are not on this node ({error})"
            ) from error
        try:
            pid = int(kernel.read(process, "stat").split()[0])
            return Sandbox(
                name,
                pid,
                kernel.start_ticks(process),
                _path_of(kernel.read(process, "environ")),
                processes.cgroup_of(process, uid),
            )
        except OSError as error:
            raise TemporaryError(f"pod {name} ended at once") from error
        finally:
            os.close(process)

    def remove(self, name: str, sandbox: Sandbox | None = None) -> None:
        """Kill the pod's processes, remove its object; later, if the API does not answer."""
        pod = self._watch.pod(name)
        uid = pod["metadata"]["uid"] if pod else ""
        if sandbox is not None:
            _kill_init(sandbox)
        if uid and not processes.kill_pod(uid):
            raise NodeError(f"processes of sandbox {name} cannot be killed")
        try:
            self._delete(name, uid)
        except (TemporaryError, RefusedError) as error:
            # The node is free, which is what Slurm waits for; the books follow.
            self._log.warning("pod_removal_delayed", sandbox=name, reason=error.message)
            with self._unremoved_lock:
                self._unremoved[name] = uid

    def _delete(self, name: str, uid: str) -> None:
        """Remove the object and wait until the watch has seen that, too."""
        self._api.delete(f"{self._pods}/{name}", grace_s=0, uid=uid)
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        seen = self._watch.pod(name)
        while seen is not None and (not uid or seen["metadata"]["uid"] == uid):
            if time.monotonic() > deadline or self._watch.away:
                return  # it is gone, the watch will tell later
            seen = self._watch.wait(name, seen, _LOOK_S)

    def _remove_for_ever(self) -> None:
        while True:
            time.sleep(_RETRY_REMOVAL_S)
            with self._unremoved_lock:
                due = list(self._unremoved.items())
            for name, uid in due:
                self._remove_late(name, uid)

    def _remove_late(self, name: str, uid: str) -> None:
        if uid:
            processes.kill_pod(uid)  # the kubelet may have made it since
        try:
            self._api.delete(f"{self._pods}/{name}", grace_s=0, uid=uid)
        except (TemporaryError, RefusedError):
            return
        self._log.info("pod_removed_late", sandbox=name)
        with self._unremoved_lock:
            self._unremoved.pop(name, None)

    def names(self) -> set[str]:
        """Return the pods with this node's label, as the watch knows them."""
        return self._watch.names()

    def strays(self) -> set[str]:
        """Return old pods of other Slurm nodes, whose agents may be dead."""
        oldest = (datetime.now(UTC) - _STRAY_AGE).strftime("%Y-%m-%dT%H:%M:%SZ")
        selector = f"app=slurm-job,sbridge/node!={self._node_label}"
        try:
            answer = self._api.get(self._pods, labelSelector=selector, resourceVersion="0")
        except RefusedError as error:
            raise TemporaryError(f"other nodes' pods cannot be listed: {error.message}") from error
        metadata = [pod["metadata"] for pod in answer["items"]]
        return {
            pod["name"]
            for pod in metadata
            if pod["creationTimestamp"] < oldest and not pod.get("deletionTimestamp")
        }

    def remove_stray(self, name: str) -> None:
        """Ask for its deletion; its own kubelet does it, and so says that it is done."""
        try:
            self._api.delete(f"{self._pods}/{name}")
        except RefusedError as error:
            raise TemporaryError(f"stray pod {name} cannot be deleted: {error.message}") from error


class _SlowEvents:
    """The events of one pod, read when it is slow, ever less often: they hold the reasons."""

    def __init__(self, api: Api, pod: Object) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/events"
        self._selector = f"involvedObject.uid={pod['metadata']['uid']}"
        self._due = list(_EVENTS_S)
        self._events: list[Object] = []

    def after(self, waited_s: float) -> list[Object]:
        """Return the events as they were known a moment ago, oldest first."""
        if waited_s < self._due[0]:
            return self._events
        last = self._due.pop(0)
        if not self._due:
            self._due.append(waited_s + last)
        try:
            answer = self._api.get(self._path, fieldSelector=self._selector)
        except (TemporaryError, RefusedError):
            return self._events
        self._events = sorted(answer["items"], key=_when)
        return self._events


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _kill_init(sandbox: Sandbox) -> None:
    """Kill the sandbox's first process, and with it all that entered, if it still is the one."""
    try:
        process = kernel.open_process(sandbox.init_pid)
    except OSError:
        return
    try:
        if kernel.start_ticks(process) == sandbox.init_start:
            os.kill(sandbox.init_pid, 9)
    except OSError:
        pass  # it ended by itself
    finally:
        os.close(process)


def _path_of(environ: bytes) -> str:
    pairs = (pair.partition(b"=") for pair in environ.split(b"\0"))
    return next((os.fsdecode(value) for key, _, value in pairs if key == b"PATH"), "")
