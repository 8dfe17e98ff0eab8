"""What all clusters of a machine share: the slots, which keep them apart, and the test users.

Whoever goes last removes the users that were made here; those that were there before stay.
"""

import grp
import pwd
from pathlib import Path

import cgroups
from cluster import USERS, Cluster, slot_nodes, slot_ports
from commands import call
from ports import listening_ports
from slots import Slots

SLOTS = 100
# alice is in one group more than her own, so that tests can see supplementary groups.
GROUP = "research"
GROUP_MEMBER = "alice"


def claim_slot(state: Path, wanted: int | None) -> int:
    """Return this cluster's slot, its old one where that is still free."""
    return _slots().claim(state, wanted)


def _slots() -> Slots:
    return Slots("sbridge-dev", SLOTS, _is_free)


def may_use_slot(cluster: Cluster) -> bool:
    """Whether nobody else holds the slot that this cluster has or had before its last `down`."""
    return _slots().may_use(cluster.slot, cluster.state)


def _is_free(slot: int) -> bool:
    """Whether nobody else, such as a Slurm of the site's, uses the slot's ports or node names."""
    ports_in_use = listening_ports() & set(slot_ports(slot))
    return not ports_in_use and not cgroups.of_nodes(slot_nodes(slot))


def make_users() -> str:
    """Make the test users that are missing, and remember which ones were made here."""
    with _slots().record() as record:
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
    slots = _slots()
    with slots.record() as record:
        slots.give_back(record, cluster.slot, cluster.state)
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
