"""One pod on its way from the API server to a running first process on this node.

1. asking     the API does not answer: wait until it does
2. creating   what an earlier try left is removed first
3. waiting    by the one watch, and the pod's events once it is slow, for the kubelet's word
4. running    its first process was found among this node's
"""

import os
import time

from bridge import kernel
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes import first_process, image_variables
from bridge.runtimes.kubernetes import (
    image_store,
    processes,
    pulling,
    refusal,
    user_namespace,
    waiting,
)
from bridge.runtimes.kubernetes.api import NO_ANSWER, Api, Object, RefusedError
from bridge.runtimes.kubernetes.pod_creation import PodCreation
from bridge.runtimes.kubernetes.pod_removal import PodRemoval
from bridge.runtimes.kubernetes.pod_watch import PodWatch
from bridge.runtimes.sandbox import Sandbox, Waiter

_LOOK_S = 1.0  # how soon a cancelled waiter is noticed, and how often a slow pod's events are read
_EVENTS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # after so long are a slow pod's events read; then each 15 s
# A kubelet or container runtime that is being upgraded is back by then; a kubelet that lost the
# API server asks again after a minute at most.
_NODE_PATIENCE_S = 120.0
_WORD_S = 10.0  # for the kubelet to tell of a container's end, which it looks for each second


class PodStart:
    """Starts pods of the site whose own namespace is `namespace`, for whoever waits for them.

    That is for `patience_s` at most, of which the node's own daemons are given half, and no more
    than `_NODE_PATIENCE_S`.
    """

    def __init__(
        self, api: Api, namespace: str, watch: PodWatch, removal: PodRemoval, patience_s: float
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._creation = PodCreation(api, namespace)
        self._watch = watch
        self._removal = removal
        self._node_patience_s = min(_NODE_PATIENCE_S, patience_s / 2)

    def create(self, wanted: Object, waiter: Waiter) -> Object:
        """Create the pod as soon as the API answers."""
        while away := self._watch.away:
            said = _without_api(away)
            waiter.say(said)
            _check_patience(waiter, said)
            self._watch.wait_for_api(_LOOK_S)
        name = wanted["metadata"]["name"]
        if self._watch.pods(name):  # in whichever namespace an earlier try has made it
            self._removal.remove(name, None)
        try:
            return self._created(wanted)
        except RefusedError as error:
            if error.reason != "AlreadyExists":
                raise refusal.blame(error, f"pod {name}") from error
        self._removal.remove(name, None)  # left by a try that was cut short
        try:
            return self._created(wanted)
        except RefusedError as error:
            if error.reason == "AlreadyExists":
                raise TemporaryError(f"an earlier pod {name} is still being removed") from error
            raise refusal.blame(error, f"pod {name}") from error

    def _created(self, wanted: Object) -> Object:
        place = user_namespace.of_pod(wanted, self._namespace)
        self._removal.expect(wanted["metadata"]["name"], place)
        pod = self._creation.create(wanted)
        self._watch.saw(pod)
        return pod

    def sandbox(self, created: Object, waiter: Waiter) -> Sandbox:
        """Return the sandbox once the pod runs and its first process was found."""
        pod = self._wait(created, waiter)
        try:
            return entry(pod)
        except TemporaryError:
            self._hear_end(pod, waiter)
            raise

    def _hear_end(self, pod: Object, waiter: Waiter) -> None:
        """Raise what the kubelet has to tell of a pod whose first process is no more."""
        deadline = time.monotonic() + _WORD_S
        seen: Object | None = pod
        while seen is not None and time.monotonic() < deadline:
            if not waiting.is_running(seen):
                _progress(seen, [])
            if waiter.cancelled.is_set():
                return
            seen = self._watch.wait(seen, _LOOK_S)

    def _wait(self, created: Object, waiter: Waiter) -> Object:
        name = created["metadata"]["name"]
        began = time.monotonic()
        events = _SlowEvents(self._api, created)
        fault = _NodeFault(self._node_patience_s)
        said = ""
        pod: Object | None = created
        while pod is not None:
            if waiting.is_running(pod):
                if said.startswith("pulling"):
                    waiter.say(f"{said} took {pulling.pull_of(events.now())}")
                return pod
            delay = _progress(pod, events.after(time.monotonic() - began))
            away = self._watch.away
            said = _without_api(away) if away else delay.text
            waiter.say(said)
            fault.check(delay, is_known=not away)
            _check_patience(waiter, said)
            pod = self._watch.wait(pod, _LOOK_S)
        raise TemporaryError(f"pod {name} was deleted from outside while it was starting")


def _progress(pod: Object, events: list[Object]) -> waiting.Delay:
    try:
        return waiting.progress(pod, events)
    except pulling.DiskError as error:
        raise image_store.blame(error, pod) from error


def entry(pod: Object) -> Sandbox:
    """Return how a running pod's first process is found on this node."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    try:
        process = processes.init_of(uid, waiting.container_id(pod))
    except OSError as error:
        where = pod["spec"].get("nodeName")
        raise TemporaryError(
            f"pod {name} runs on {where}, but its processes are not on this node ({error})"
        ) from error
    try:
        first_process.await_init(process)
        pid = int(kernel.read(process, "stat").split()[0])
        variables = image_variables.among(os.fsdecode(kernel.read(process, "environ")).split("\0"))
        path = variables.pop("PATH", "")
        cgroup = processes.cgroup_of(process, uid)
        return Sandbox(name, pid, kernel.start_ticks(process), path, cgroup, variables)
    except OSError as error:
        raise TemporaryError(f"pod {name} ended at once") from error
    finally:
        os.close(process)


def _without_api(reason: str) -> str:
    return f"waiting for the Kubernetes API: {reason.removeprefix(NO_ANSWER)}"


def _check_patience(waiter: Waiter, said: str) -> None:
    """Raise what ends the wait: the job is over, or it has waited as long as it may."""
    if waiter.cancelled.is_set():
        raise TemporaryError("the job is over")
    if time.time() > waiter.give_up_at:
        raise TemporaryError(said)


class _NodeFault:
    """For how long nothing but this node's own daemons has kept a pod from running.

    A fault that comes when something else has used up the job's time is not the node's yet.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since = 0.0

    def check(self, delay: waiting.Delay, *, is_known: bool) -> None:
        """Raise `NodeError` once that was too long."""
        if not delay.by_node or not is_known:
            self._since = 0.0
            return
        self._since = self._since or time.monotonic()
        waited_s = time.monotonic() - self._since
        if waited_s > self._patience_s:
            raise NodeError(f"{delay.text} for {waited_s:.0f} s")


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
        return self.now()

    def now(self) -> list[Object]:
        """Return the events, as last known where the API does not answer."""
        try:
            answer = self._api.get(self._path, fieldSelector=self._selector)
        except (TemporaryError, RefusedError):
            return self._events
        self._events = sorted(answer["items"], key=_when)
        return self._events


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
