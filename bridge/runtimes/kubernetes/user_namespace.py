"""The namespace that a user's sandboxes are in, with `kubernetes.user_namespaces`.

Pure. Two users never share one: a name that Kubernetes takes as it is stays readable, any other
one is told apart by the uid behind two hyphens, which no plain name has.
"""

import re
from typing import Any

PREFIX = "user-"
SITE = "sbridge/site"  # whose it is: the namespace of the agents' own account
USER = "sbridge/user"
UID = "sbridge/uid"

_PLAIN = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_LONGEST = 63  # of a DNS label (RFC 1123)


def name_of(user: str, uid: int) -> str:
    """Return the name of a user's namespace."""
    plain = PREFIX + user
    if _PLAIN.fullmatch(user) and len(plain) <= _LONGEST:
        return plain
    end = f"--{uid}"
    readable = PREFIX + _NOT_IN_NAMES.sub("-", user.lower()).strip("-")
    return readable[: _LONGEST - len(end)].rstrip("-") + end


def of_pod(pod: dict[str, Any], site: str) -> str:
    """Return where a pod is, or is to be made: in the site's own namespace unless it says."""
    return str(pod["metadata"].get("namespace") or site)


def is_of_site(pod: dict[str, Any], site: str) -> bool:
    """Whether a pod from anywhere in the cluster is one of the site whose namespace this is."""
    metadata = pod["metadata"]
    if metadata["namespace"] == site:
        return True
    is_users = metadata["namespace"].startswith(PREFIX)
    return bool(is_users and metadata.get("labels", {}).get(SITE) == site)
