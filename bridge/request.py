"""The sandbox request: the one word that travels in a job's `comment` or `extra`.

job_submit.lua and the watcher write it, the agent reads it. It is the last word of the
field, behind whatever the user wrote there himself, and looks like a URL's query:

    sbridge1?image=nas-hub.local%3A5407%2Falpine%3Alatest&workdir=%2Fworkspace&tag=4f…

`1` is the version. Unknown keys are kept apart, not refused: an older agent must live with
a newer job_submit.lua. Everything in it is the user's word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from bridge.errors import PermanentError

MARKER = "sbridge1?"
MAX_CHARACTERS = 16 * 1024


@dataclass(frozen=True)
class SandboxRequest:
    """What a job asks of sbridge; empty strings mean "not asked for".

    `image` is an image reference, `workdir` and `script` are paths where the job runs,
    `runtime` a runtime's name, `tag` the watcher's name of a submission, `file` that of the
    file that was dropped, if there was room for it.
    """

    image: str = ""
    workdir: str = ""
    script: str = ""
    runtime: str = ""
    tag: str = ""
    file: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)

    def word(self) -> str:
        """Return the request as the word that `parse` reads."""
        pairs = [(name, getattr(self, name)) for name in _KEYS] + list(self.unknown.items())
        return MARKER + "&".join(f"{k}={quote(v, safe='')}" for k, v in pairs if v)


_KEYS = ("image", "workdir", "script", "runtime", "tag", "file")


def find(*texts: str | None) -> SandboxRequest | None:
    """Return the request in the first of `texts` (extra, comment) that has one, else None.

    Raises `PermanentError` when there is a request that cannot be read.
    """
    for text in texts:
        word = (text or "").rpartition(" ")[2]
        if word.startswith(MARKER):
            return parse(word)
    return None


def parse(word: str) -> SandboxRequest:
    """Read the word `sbridge1?…`; raises `PermanentError` when it is malformed."""
    if len(word) > MAX_CHARACTERS:
        raise PermanentError(f"the sandbox request is longer than {MAX_CHARACTERS} characters")
    values: dict[str, str] = {}
    for pair in filter(None, word.removeprefix(MARKER).split("&")):
        key, separator, value = pair.partition("=")
        if not separator or key in values:
            raise PermanentError(f"the sandbox request has a malformed or repeated part: {pair!r}")
        values[key] = unquote(value, errors="strict") if _is_utf8(value) else _refuse(key)
    known = {key: values.pop(key) for key in _KEYS if key in values}
    return SandboxRequest(**known, unknown=values)


def without_request(text: str) -> str:
    """Return what the user himself wrote into a comment that may end with a request."""
    own, _, word = text.rpartition(" ")
    return own if word.startswith(MARKER) else text


def _is_utf8(value: str) -> bool:
    try:
        return "\0" not in unquote(value, errors="strict")
    except UnicodeDecodeError:
        return False


def _refuse(key: str) -> str:
    raise PermanentError(f"the sandbox request's {key} is not UTF-8 text without NUL")
