"""Why a pod does not run yet, in the user's words, and who is to blame.

Pure: a pod's status and its events go in, words for the waiting user or an error come out.
Reasons and texts are those of Kubernetes 1.34 to 1.36, its kubelet and containerd; what is not
known here is waited for, because it may pass, and what is said of it is Kubernetes' own.

What is said of a container may hold words of its image, a path or a variable: who could blame
the node with them could drain one after the other. So they only tell what is worth a look.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes.complaint import shortened
from bridge.runtimes.kubernetes import pulling
from bridge.runtimes.kubernetes.api import Object
from bridge.runtimes.sandbox import UserError, ended_at_once

_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
_IMAGE_REASONS = ("InvalidImageName", "SignatureValidationFailed")
# The image is there; what it was to start is not, or may not.
CREATE_REASONS = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
)
# Events that the kubelet sends once there is a pod to put the container into.
_BEGUN = ("Pulling", "Pulled", "Created", "Started")
# A slow or restarting container runtime says this; the kubelet tries again.
_PASSING_CREATE = re.compile(
    r"context deadline exceeded|is reserved for|timed out waiting|error while dialing|ttrpc: closed"
    r"|connection refused",
    re.IGNORECASE,
)
# What comes of a memory limit that the container runtime itself does not fit into.
_TOO_SMALL = re.compile(r"OOM-killed|cannot start a stopped process|signal: killed")
_SMALL_MIB = 32
# The kubelet's admission: it is over for this pod, and another one may do better.
_ADMISSION_REASONS = re.compile(r"OutOf\w+|NodeAffinity|UnexpectedAdmissionError|Evicted|Preempt")
_LONGEST_REASON = 400


class Delay(NamedTuple):
    """Why a pod is not there yet; `by_node` when only this node's own daemons can be at fault."""

    text: str
    by_node: bool = False


def progress(pod: Object, events: Sequence[Object]) -> Delay:
    """Return what to tell whoever waits for `pod`.

    Raises `UserError`, `TemporaryError` or its kind `DiskError` when this pod will never run.
    """
    status = pod.get("status", {})
    image = _image(pod)
    if status.get("phase") in ("Failed", "Succeeded") or status.get("reason"):
        raise _failed(pod, status)
    waiting = _container(pod).get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), pulling.short(waiting.get("message", ""), image)
    if reason == "ErrImageNeverPull":
        raise UserError(
            f"image {image} is not on this node, and this site has none fetched for jobs"
            " (kubernetes.image_pull_policy); name one that is there, or have it brought there"
        )
    if reason in _IMAGE_REASONS:
        raise UserError(f"image {image} cannot be used: {message or reason}")
    if reason in _PULL_REASONS:
        return Delay(pulling.trouble(image, events, message))
    if reason in CREATE_REASONS:
        return _create_trouble(pod, reason, message)
    delay = _not_taken(pod) or _node_trouble(pod, events)
    return delay or _made(pod, image, events)


def ended(pod: Object, *, is_gone: bool) -> str:
    """Return why a sandbox is no more, as Kubernetes tells it; empty while it is there."""
    status = pod.get("status", {})
    if status.get("reason"):
        return f"{status['reason']}: {status.get('message', '')}".rstrip(": ")
    is_deleted = is_gone or pod["metadata"].get("deletionTimestamp")
    if is_deleted:
        return f"its pod was deleted{_disruption(status)}"
    terminated = _container(pod).get("state", {}).get("terminated", {})
    if terminated.get("reason") == "OOMKilled":
        return "it used up its memory (OOMKilled); #SBATCH --mem asks for more"
    if terminated:
        reason = terminated.get("reason", "Error")
        return f"its first process ended ({reason}, exit code {terminated.get('exitCode')})"
    return ""


def is_running(pod: Object) -> bool:
    """Whether the sandbox's first process runs, as far as the kubelet said."""
    return "running" in _container(pod).get("state", {})


def container_id(pod: Object) -> str:
    """Return the id of the sandbox's container, as `containerd://…`."""
    return str(_container(pod).get("containerID", ""))


def _image(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def _container(pod: Object) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    first: dict[str, Any] = statuses[0]
    return first


def _disruption(status: dict[str, Any]) -> str:
    """Return by whom, where the cluster itself threw the pod out."""
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return f" ({condition.get('reason')}: {condition.get('message', '')})"
    return ""


def _failed(pod: Object, status: dict[str, Any]) -> SbridgeError:
    reason = str(status.get("reason", ""))
    message = str(status.get("message", ""))
    if _ADMISSION_REASONS.match(reason):
        return TemporaryError(
            f"the node does not take the sandbox now: {reason}: {shortened(message)}"
        )
    terminated = _container(pod).get("state", {}).get("terminated", {})
    image = _image(pod)
    why = terminated.get("message") or message or terminated.get("reason") or reason
    if terminated.get("reason") in CREATE_REASONS:
        return _not_created(pod, terminated["reason"], str(why))
    # Other reasons (OOMKilled, ContainerStatusUnknown, …) are none of the process itself.
    exit_code = terminated.get("exitCode", 0) if terminated.get("reason") == "Error" else 0
    return ended_at_once(image, exit_code, shortened(str(why)))


def _create_trouble(pod: Object, reason: str, message: str) -> Delay:
    if _PASSING_CREATE.search(message):
        return Delay(f"waiting for the node's container runtime: {message}")
    raise _not_created(pod, reason, message)


def _not_created(pod: Object, reason: str, message: str) -> SbridgeError:
    if pulling.is_of_disk(message):
        return pulling.DiskError(f"containers cannot be created: {shortened(message)}")
    if _is_too_small(pod, message):
        return _too_small(pod)
    told = shortened(message) or reason
    return UserError(f"the sandbox with image {_image(pod)} cannot be made: {told}")


def _not_taken(pod: Object) -> Delay | None:
    """Speak for the scheduler and then the kubelet, until the latter has taken up the pod."""
    node = pod["spec"].get("nodeName")
    if node:
        text = f"waiting for the kubelet of Kubernetes node {node}"
        return None if pod["status"].get("startTime") else Delay(text, by_node=True)
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Delay(f"waiting for room on its Kubernetes node: {_no_room(condition)}")
    return Delay("waiting for the scheduler of Kubernetes")


def _no_room(condition: dict[str, Any]) -> str:
    """Return what the scheduler said, without what it says of other ways; explain a cordon."""
    text = re.split(r"\.? (?:no new claims|preemption:)", condition.get("message", ""))[0]
    return text.replace("were unschedulable", "were unschedulable (cordoned)")


def _node_trouble(pod: Object, events: Sequence[Object]) -> Delay | None:
    """Speak of the last event if it is about folders or the pod's own network and cgroup."""
    for event in reversed(events):
        reason = event.get("reason")
        if reason in ("FailedMount", "FailedAttachVolume"):
            return Delay(f"waiting for a folder to be mounted: {_short_event(event)}")
        if reason == "FailedCreatePodSandBox":
            if _is_too_small(pod, pulling.text_of(event)):
                raise _too_small(pod)
            text = f"waiting for the node's container runtime: {_short_event(event)}"
            return Delay(text, by_node=True)
        if reason in _BEGUN:
            return None
    return None


def _made(pod: Object, image: str, events: Sequence[Object]) -> Delay:
    """Speak for the container runtime, of which nothing is heard until it has begun."""
    if any(event.get("reason") in _BEGUN for event in events):
        return Delay(_pulling(image, events) or f"starting {image}")
    node = pod["spec"]["nodeName"]
    return Delay(f"waiting for the container runtime of Kubernetes node {node}", by_node=True)


def _is_too_small(pod: Object, message: str) -> bool:
    return 0 < _memory_mib(pod) < _SMALL_MIB and bool(_TOO_SMALL.search(message))


def _too_small(pod: Object) -> UserError:
    limit = _memory_mib(pod)
    return UserError(f"{limit} MiB of memory are too little for a sandbox; ask for more with --mem")


def _memory_mib(pod: Object) -> int:
    """Return the memory limit as the manifest has it, 0 for none."""
    text = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "0Mi")
    return int(text.removesuffix("Mi")) if text.endswith("Mi") else _SMALL_MIB


def _pulling(image: str, events: Sequence[Object]) -> str:
    pull = pulling.pull_of(events)
    if pull is not None:
        return f"starting {image} (pulled in {pull})" if pull.took else f"starting {image}"
    is_begun = any(event.get("reason") == "Pulling" for event in events)
    return f"pulling image {image}" if is_begun else ""


def _short_event(event: Object) -> str:
    text = re.sub(r'^MountVolume\.SetUp failed for volume "[^"]*" : ', "", pulling.text_of(event))
    text = re.sub(r"^Failed to create pod sandbox: ", "", text)
    return pulling.without_wrappings(text)[-_LONGEST_REASON:]
