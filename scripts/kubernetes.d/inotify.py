"""The machine's limit of inotify instances, which all clusters share.

A kubelet takes more than twenty, and Linux lets root have 128 of them: the sixth cluster's kubelet
ends at its start. Whoever goes last puts the machine's own limit back.
"""

from pathlib import Path
from typing import Any

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
WANTED = 1024
_MADE = "inotify:"  # what the record calls the old limit


def raise_limit(record: dict[str, Any]) -> str:
    """Raise the limit where it is lower; say so, or why it stays."""
    limit = _read()
    if limit >= WANTED:
        return ""
    try:
        LIMIT.write_text(f"{WANTED}\n")
    except OSError as error:  # /proc/sys is often read-only in a container
        return f"inotify instances stay {limit} ({error.strerror})"
    if not _noted(record):  # that of a crashed machine is there still
        record["made"].append(f"{_MADE}{limit}")
    return f"inotify instances {limit} → {WANTED}"


def put_limit_back(record: dict[str, Any]) -> None:
    """Put back what `raise_limit` noted, once no cluster is left; others' change is theirs."""
    if record["slots"]:
        return
    for entry in _noted(record):
        record["made"].remove(entry)
        if _read() == WANTED:
            LIMIT.write_text(f"{entry.removeprefix(_MADE)}\n")


def _noted(record: dict[str, Any]) -> list[str]:
    return [entry for entry in record["made"] if entry.startswith(_MADE)]


def _read() -> int:
    return int(LIMIT.read_text())
