"""What all clusters of a machine share: the slots, which keep them apart, and the test users.

A small record says which state folder holds which slot and which users were made here. Whoever
goes last removes these users; those that were there before stay.
"""

import contextlib
import fcntl
import grp
import json
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cgroups
from cluster import USERS, Cluster, slot_nodes, slot_ports
from commands import Failure, call
from files import write

REGISTRY = Path("/var/lib/sbridge-dev.json")
REGISTRY_LOCK = Path("/run/lock/sbridge-dev.lock")
SLOTS = 100
# alice is in one group more than her own, so that tests can see supplementary groups.
GROUP = "research"
GROUP_MEMBER = "alice"


@contextlib.contextmanager
def _registry() -> Iterator[dict[str, Any]]:
    """Give the machine-wide record to one process at a time, and keep what it changed."""
    REGISTRY_LOCK.parent.mkdir(parents=True, exist_ok=True)
    with REGISTRY_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        saved = REGISTRY.read_text() if REGISTRY.exists() else ""
        record: dict[str, Any] = json.loads(saved) if saved else {"slots": {}, "made": []}
        slots = record["slots"]
        for slot in [slot for slot, state in slots.items() if not Path(state).is_dir()]:
            del slots[slot]
        try:
            yield record
        finally:
            text = json.dumps(record) if slots or record["made"] else ""
            if not text:
                REGISTRY.unlink(missing_ok=True)
            elif text != saved:
                write(REGISTRY, text)


def claim_slot(state: Path, wanted: int | None) -> int:
    """Return this cluster's slot, its old one where that is still free."""
    with _registry() as record:
        slots: dict[str, str] = record["slots"]
        for slot, holder in slots.items():
            if holder == str(state):
                return int(slot)
        candidates: list[int] = [*([] if wanted is None else [wanted]), *range(SLOTS)]
        for candidate in candidates:
            if str(candidate) not in slots and _is_free(candidate):
                slots[str(candidate)] = str(state)
                return candidate
    ports = f"{slot_ports(0)[0]} and {slot_ports(SLOTS - 1)[-1]}"
    raise Failure(f"All {SLOTS} slots of this machine are taken: no free ports between {ports}.")


def may_use_slot(cluster: Cluster) -> bool:
    """Whether nobody else holds the slot that this cluster has or had before its last `down`."""
    with _registry() as record:
        return record["slots"].get(str(cluster.slot), str(cluster.state)) == str(cluster.state)


def _is_free(slot: int) -> bool:
    """Whether nobody else, such as a Slurm of the site's, uses the slot's ports or node names."""
    ports_in_use = listening_ports() & set(slot_ports(slot))
    return not ports_in_use and not cgroups.of_nodes(slot_nodes(slot))


def listening_ports() -> set[int]:
    """Return the TCP ports on which somebody listens."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return ports


def make_users() -> str:
    """Make the test users that are missing, and remember which ones were made here."""
    with _registry() as record:
        made = record["made"]
        if not _has_group(GROUP):
            call(["groupadd", GROUP])
            made.append(f"group:{GROUP}")
        for user in USERS:
            if _has_user(user):
                continue
            groups = ["--groups", GROUP] if user == GROUP_MEMBER else []
            call(["useradd", "--create-home", "--shell", "/bin/bash", *groups, user])
            made.append(f"user:{user}")
    return ", ".join(f"{user} (uid {pwd.getpwnam(user).pw_uid})" for user in USERS)


def release(cluster: Cluster) -> list[str]:
    """Give the slot back; whoever is last removes the users and groups that were made."""
    with _registry() as record:
        if record["slots"].get(str(cluster.slot)) == str(cluster.state):
            del record["slots"][str(cluster.slot)]
        if record["slots"]:
            return []
        removed = list(reversed(record["made"]))
        for entry in removed:
            kind, _, name = entry.partition(":")
            if kind == "user" and _has_user(name):
                call(["userdel", "--remove", name])
            elif kind == "group" and _has_group(name):
                call(["groupdel", name])
        record["made"] = []
    return [entry.partition(":")[2] for entry in removed]


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
