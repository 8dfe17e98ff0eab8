"""Try a pod: create it, tell what happens to it until it runs, and remove it again."""

import threading
import time
from collections.abc import Callable

from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes.kubernetes import short_lived, user_namespace, waiting
from bridge.runtimes.kubernetes.api import Api, Object
from bridge.runtimes.kubernetes.short_lived import ShortLivedPod

_REMOVAL_S = 60
_LAST_WORDS_S = 2.0  # until the kubelet's events of what it just did can be read


def run(
    api: Api,
    namespace: str,
    manifest: Object,
    timeout_s: float,
    cancelled: threading.Event,
    tell: Callable[[str], None],
) -> None:
    """Return once the pod has run and is gone again.

    `tell` takes a line for each step. Raises the errors of a sandbox that cannot be made, and
    `CancelledError`; then, too, the pod is gone.
    """
    began = time.monotonic()

    def say(text: str) -> None:
        tell(f"+{time.monotonic() - began:6.2f} s  {text}")

    place = user_namespace.of_pod(manifest, namespace)
    short_lived.sweep(api, place)
    with ShortLivedPod(api, namespace, manifest, timeout_s + _REMOVAL_S, cancelled) as pod:
        say(f"pod {pod.name} was created in namespace {place}")
        trouble = None
        try:
            _follow(pod, timeout_s, say)
        except SbridgeError as error:
            trouble = error
        say("removing it")
    say("it is gone")
    if trouble:
        raise trouble


def _follow(pod: ShortLivedPod, timeout_s: float, say: Callable[[str], None]) -> None:
    told: set[str] = set()
    last = ""
    runs_since = 0.0
    for live, events in pod.looks(timeout_s):
        for event in events:
            if event["metadata"]["uid"] not in told:
                told.add(event["metadata"]["uid"])
                say(f"event {event['reason']}: {event.get('message', '')}")
        is_running = waiting.is_running(live)
        words = "it runs" if is_running else waiting.progress(live, events).text
        if words != last:
            last = words
            phase = live.get("status", {}).get("phase", "Unknown")
            say(f"phase {phase}: {words}")
        if is_running:
            runs_since = runs_since or time.monotonic()
            has_all = any(event["reason"] == "Started" for event in events)
            if has_all or time.monotonic() > runs_since + _LAST_WORDS_S:
                return
    raise TemporaryError(f"pod {pod.name} does not run after {timeout_s:g} s: {last}")
