"""What a kubelet tells of fetching an image: how it went, or why it does not.

Pure. The texts are those of kubelets 1.34 to 1.36 and containerd.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import TemporaryError
from bridge.runtimes.kubernetes.api import Object
from bridge.runtimes.sandbox import UserError

# Of the kernel, which has the last word. Registries and images can have these words said as well:
# by the text of an HTTP status, by a path, by a link that leads to where nothing can be made.
_NO_SPACE = re.compile(
    r"(?:no space left on device|read-only file system|input/output error)(?:: unknown)?$"
)
_OTHERS_WORDS = re.compile(r"\bstatus\b.*: [1-5]\d\d | to rootfs at |create mountpoint for ")
# What a registry, or the way to it, says when another try may help. An unknown host is none of
# these: a name server that cannot be asked is told of in other words.
_PASSING = re.compile(
    r"connection refused|i/o timeout|TLS handshake timeout|connection reset|network is unreachable"
    r"|no route to host|server misbehaving|temporary failure|too ?many ?requests|\b50[0234]\b"
    r"|\bEOF\b|context deadline exceeded|pull QPS exceeded",
    re.IGNORECASE,
)
_LONGEST_REASON = 400


class DiskError(TemporaryError):
    """Words about the node's disk. They may be an image's or a registry's: look at the disk."""


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
    text = next((text_of(event) for event in events if event.get("reason") == "Pulled"), None)
    if text is None:
        return None
    took = re.search(r" in ([0-9hm.µ]+s)\b", text)
    size = re.search(r"Image size: (\d+) bytes", text)
    return Pull(took[1] if took else "", int(size[1]) if size else 0)


def trouble(image: str, events: Sequence[Object], message: str) -> str:
    """Judge a failed pull by what the registry said: the back-off's own text may not tell.

    Returns what is waited for; raises `UserError` or `DiskError` when that is in vain.
    """
    told = [text_of(event) for event in events if event.get("reason") == "Failed"]
    said = next((text for text in reversed(told) if "pull" in text), message)
    said = short(said, image)
    without_name = said.replace(image, "")
    if is_of_disk(without_name):
        raise DiskError(f"image {image} cannot be stored: {said}")
    if _PASSING.search(without_name):
        return f"waiting for the registry of {image}: {said}"
    if not told and not message.startswith(("failed", "rpc")):
        return f"pulling image {image} failed; asking why"
    raise UserError(f"image {image} cannot be pulled: {said}")


def is_of_disk(text: str) -> bool:
    """Whether a message may tell of the node's disk, by its last words; see `DiskError`."""
    return bool(_NO_SPACE.search(text)) and not _OTHERS_WORDS.search(text)


def short(text: str, image: str) -> str:
    """Shorten containerd's nested sentences to what the registry said in the end."""
    text = re.sub(r'^(?:Failed to pull image|Back-off pulling image) "[^"]*":\s*', "", text)
    text = without_wrappings(re.sub(r"^(?:ErrImagePull|error:?)\s*:?\s*", "", text))
    text = re.sub(
        r"^Failed to apply default image tag .* couldn't parse image name \".*\": ", "", text
    )
    # By whatever name: containerd adds `:latest` and `docker.io/library/`.
    text = re.sub(r'failed to pull and unpack image "[^"]*": ', "", text)
    text = re.sub(r'failed to resolve reference "[^"]*": ', "", text)
    text = re.sub(r'^failed to do request: \w+ "[^"]*": ', "", text)
    return text.removeprefix(f"{image}: ")[-_LONGEST_REASON:]


def without_wrappings(text: str) -> str:
    """Take off what gRPC puts around a message."""
    text = re.sub(r"^rpc error: code = \w+ desc = ", "", text)
    return re.sub(r'^connection error: desc = "transport: ([^"]*)"', r"\1", text)


def text_of(event: Object) -> str:
    """Return what an event says, by either of its two fields for that."""
    return str(event.get("message") or event.get("note") or "")
