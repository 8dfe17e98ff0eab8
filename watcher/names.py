"""The names of job files: which are none, and what they become on their way.

Names are strings as os.fsdecode gives them: bytes that are not UTF-8 are kept as
surrogates, so that renaming never damages a name.
"""

import fnmatch
import os
import re

CLAIMS = ".sbridge"
RECEIPT_SUFFIX = ".receipt.json"
ERROR_SUFFIX = ".error.txt"
MAX_BYTES = 255

# What file managers, office programs, copying programs and NAS systems leave behind.
_IGNORED = (
    ".*",
    "~$*",
    "*~",
    "*.tmp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "lost+found",
)
_CLAIMED = re.compile(r"([0-9a-f]{32})\.(.+)", re.DOTALL)
_LONGEST_SUFFIX = 20
_ELLIPSIS = "~"


def is_ignored(name: str) -> bool:
    """Whether `name` is passed over in silence."""
    lowered = name.lower()
    return any(fnmatch.fnmatchcase(lowered, pattern) for pattern in _IGNORED)


def claimed(tag: str, name: str) -> str:
    """Return the name of a claimed file; it holds the tag and, as far as it fits, its own name."""
    return f"{tag}.{fitted(name, MAX_BYTES - len(tag) - 1)}"


def parse_claimed(entry: str) -> tuple[str, str] | None:
    """Return tag and name of a claimed file, None when it is none."""
    match = _CLAIMED.fullmatch(entry)
    return (match[1], match[2]) if match else None


def numbered(name: str, number: int, room: int = MAX_BYTES) -> str:
    """Return "name (2).sh" for 2 and so on, "name.sh" for 1, in at most `room` bytes."""
    if number == 1:
        return fitted(name, room)
    stem, suffix = _split(name)
    mark = f" ({number})"
    return fitted(stem, room - _size(mark + suffix)) + mark + suffix


def fitted(name: str, room: int) -> str:
    """Return `name`, or where it is too long its beginning and its suffix, in `room` bytes."""
    if _size(name) <= room:
        return name
    stem, suffix = _split(name)
    tail = _ELLIPSIS + suffix
    while _size(stem + tail) > room:
        stem = stem[:-1]
    return stem + tail


def job_name(name: str) -> str:
    """Return the job's name for a file that names none: its stem, in characters Slurm can keep.

    slurmdbd's tables hold UTF-8 of up to three bytes; control characters would break
    everybody's squeue.
    """
    stem = _split(name)[0]
    kept = (c if c.isprintable() and c <= "\uffff" else "_" for c in stem)
    return "".join(kept).strip() or "job"


def shown(name: str) -> str:
    """Return `name` as it may stand in a text or a log line."""
    return "".join(c if c.isprintable() else "�" for c in name)


def _split(name: str) -> tuple[str, str]:
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if _size(suffix) <= _LONGEST_SUFFIX else (name, "")


def _size(name: str) -> int:
    return len(os.fsencode(name))
