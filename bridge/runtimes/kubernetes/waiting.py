"""Why a pod does not run yet, in the user's words, and who is to blame.

Pure: a pod's status and its events go in, words for the waiting user or an error come out.
Reasons and texts are those of Kubernetes 1.34 to 1.36, its kubelet and containerd; what is not
known here is waited for, because it may pass, and what is said of it is Kubernetes' own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.errors import NodeError, SbridgeError, TemporaryError
from bridge.runtimes.kubernetes.admission import NAME_PREFIX
from bridge.runtimes.kubernetes.api import Object, RefusedError
from bridge.runtimes.sandbox import UserError

# What a registry, or the way to it, says when another try may help.
_PASSING_PULL = re.compile(
    r"connection refused|i/o timeout|TLS handshake timeout|connection reset|network is unreachable"
    r"|no route to host|server misbehaving|temporary failure|too ?many ?requests|\b50[0234]\b"
    r"|\bEOF\b|context deadline exceeded|no such host|pull QPS exceeded",
    re.IGNORECASE,
)
_NODE_PULL = re.compile(r"no space left on device|read-only file system|input/output error")
_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
_IMAGE_REASONS = ("InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed")
# The image is there; what it was to start is not, or may not.
CREATE_REASONS = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
)
# The kubelet's admission: it is over for this pod, and another one may do better.
_ADMISSION_REASONS = re.compile(r"OutOf\w+|NodeAffinity|UnexpectedAdmissionError|Evicted|Preempt")
# The site's own preparations are in the way, not the job.
_UNPREPARED = re.compile(
    rf"ValidatingAdmissionPolicy '{re.escape(NAME_PREFIX)}|violates PodSecurity|no PriorityClass"
)
_SANDBOX_FAILURES = 3  # in a row make it this node's fault, not a hiccup of its network plug-in
_LONGEST_REASON = 400


def progress(pod: Object, events: Sequence[Object]) -> str:
    """Return what to tell whoever waits for `pod`.

    Raises `UserError`, `TemporaryError` or `NodeError` when this pod will never run.
    """
    status = pod.get("status", {})
    image = pod["spec"]["containers"][0]["image"]
    if status.get("phase") == "Failed" or status.get("reason"):
        raise _failed(pod, status)
    waiting = _container(pod).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), _short(waiting.get("message", ""))
    if reason in _IMAGE_REASONS:
        raise UserError(f"image {image} cannot be used: {message or reason}")
    if reason in _PULL_REASONS:
        return _pull_trouble(image, events, message)
    if reason in CREATE_REASONS:
        raise _not_created(image, reason, message)
    return _scheduling(pod) or _mounting(events) or _pulling(image, events) or f"starting {image}"


def refused(error: RefusedError, what: str) -> SbridgeError:
    """Return who is to blame for the API server's no to creating a pod."""
    text = error.message[:_LONGEST_REASON]
    if "exceeded quota" in text:
        return UserError(f"{what} does not fit the quota of its namespace: {text}")
    if error.status == 403 and " cannot " in text:
        hint = "`sbridge kubernetes apply` gives the agent its role."
        return TemporaryError(f"the cluster does not let the agent make {what}: {text}. {hint}")
    if error.status == 401:
        return TemporaryError(f"the cluster does not take the agent's credentials: {text}")
    if error.status == 404 or _UNPREPARED.search(text):
        return TemporaryError(f"the cluster is not prepared for {what}: {text}")
    return UserError(f"the cluster does not admit {what}: {text}")


def ended(pod: Object, *, is_gone: bool) -> str:
    """Return why a sandbox is no more, as Kubernetes tells it; empty while it is there."""
    status = pod.get("status", {})
    if status.get("reason"):
        return f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    terminated = _container(pod).get("state", {}).get("terminated", {})
    if terminated:
        reason = terminated.get("reason", "Error")
        return f"its first process ended ({reason}, exit code {terminated.get('exitCode')})"
    is_deleted = is_gone or pod["metadata"].get("deletionTimestamp")
    return "its pod was deleted" if is_deleted else ""


def is_running(pod: Object) -> bool:
    """Whether the sandbox's first process runs, as far as the kubelet said."""
    return "running" in _container(pod).get("state", {})


def container_id(pod: Object) -> str:
    """Return the id of the sandbox's container, as `containerd://…`."""
    return str(_container(pod).get("containerID", ""))


def _container(pod: Object) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    first: dict[str, Any] = statuses[0]
    return first


def _failed(pod: Object, status: dict[str, Any]) -> SbridgeError:
    reason = str(status.get("reason", ""))
    message = str(status.get("message", ""))[:_LONGEST_REASON]
    if _ADMISSION_REASONS.match(reason):
        return TemporaryError(f"the node does not take the sandbox now: {reason}: {message}")
    terminated = _container(pod).get("state", {}).get("terminated", {})
    image = pod["spec"]["containers"][0]["image"]
    why = terminated.get("message") or message or terminated.get("reason") or reason
    if terminated.get("reason") in CREATE_REASONS:
        return _not_created(image, terminated["reason"], str(why)[:_LONGEST_REASON])
    return TemporaryError(f"the sandbox with image {image} ended at once: {why}")


def _not_created(image: str, reason: str, message: str) -> SbridgeError:
    if _NODE_PULL.search(message):
        return NodeError(f"containers cannot be created: {message}")
    return UserError(f"the sandbox with image {image} cannot be made: {message or reason}")


def _pull_trouble(image: str, events: Sequence[Object], message: str) -> str:
    """Judge a failed pull by what the registry said: the back-off's own text does not tell."""
    told = [_text(event) for event in events if event.get("reason") == "Failed"]
    said = next((text for text in reversed(told) if "pull" in text), message)
    said = _short(said)
    without_name = said.replace(image, "")
    if _NODE_PULL.search(without_name):
        raise NodeError(f"image {image} cannot be stored: {said}")
    if _PASSING_PULL.search(without_name):
        return f"waiting for the registry of {image}: {said}"
    if not told and not message.startswith(("failed", "rpc")):
        return f"pulling image {image} failed; asking why"
    raise UserError(f"image {image} cannot be pulled: {said}")


def _scheduling(pod: Object) -> str:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"waiting for room on its Kubernetes node: {condition.get('message', '')}"
    return ""


def _mounting(events: Sequence[Object]) -> str:
    """Speak of the last event if it is about folders or the pod's own network and cgroup."""
    for event in reversed(events):
        reason = event.get("reason")
        if reason in ("FailedMount", "FailedAttachVolume"):
            return f"waiting for a folder to be mounted: {_text(event)[:_LONGEST_REASON]}"
        if reason == "FailedCreatePodSandBox":
            text = _text(event)[:_LONGEST_REASON]
            if _times(event) >= _SANDBOX_FAILURES:
                raise NodeError(f"its container runtime makes no sandboxes: {text}")
            return f"waiting for the node's container runtime: {text}"
        if reason in ("Pulling", "Pulled", "Created", "Started"):
            return ""
    return ""


def _pulling(image: str, events: Sequence[Object]) -> str:
    pull = pull_of(events)
    if pull is not None:
        return f"starting {image} (pulled in {pull})" if pull.took else f"starting {image}"
    is_begun = any(event.get("reason") == "Pulling" for event in events)
    return f"pulling image {image}" if is_begun else ""


@dataclass(frozen=True)
class Pull:
    """How a kubelet got an image: `took` as it writes times, "" for one that was there."""

    took: str = ""
    size_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.took}, {size_text(self.size_bytes)}" if self.size_bytes else self.took


def size_text(size_bytes: int) -> str:
    """Return a size as people read it."""
    mebibytes = size_bytes / (1 << 20)
    return f"{mebibytes:.0f} MiB" if mebibytes >= 10 else f"{mebibytes:.1f} MiB"


def pull_of(events: Sequence[Object]) -> Pull | None:
    """Return what a kubelet told of its pull; None when the image is not there yet."""
    text = next((_text(event) for event in events if event.get("reason") == "Pulled"), None)
    if text is None:
        return None
    took = re.search(r" in ([0-9hm.µ]+s)\b", text)
    size = re.search(r"Image size: (\d+) bytes", text)
    return Pull(took[1] if took else "", int(size[1]) if size else 0)


def _times(event: Object) -> int:
    return int(event.get("count") or (event.get("series") or {}).get("count") or 1)


def _text(event: Object) -> str:
    return str(event.get("message") or event.get("note") or "")


def _short(text: str) -> str:
    """Shorten containerd's nested sentences to what the registry said in the end."""
    text = re.sub(r'^(?:Failed to pull image|Back-off pulling image) "[^"]*":\s*', "", text)
    text = re.sub(r"^(?:ErrImagePull|rpc error: code = \w+ desc =|error:?)\s*:?\s*", "", text)
    text = re.sub(r"^rpc error: code = \w+ desc = ", "", text)
    # By whatever name: containerd adds `:latest` and `docker.io/library/`.
    text = re.sub(r'failed to pull and unpack image "[^"]*": ', "", text)
    text = re.sub(r'failed to resolve reference "[^"]*": ', "", text)
    return text[-_LONGEST_REASON:]
