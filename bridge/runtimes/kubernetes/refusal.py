"""The API server's no to making a pod: what it means for the job.

Pure. The user's fault ends the job; what the site has not prepared, or what may pass, is
waited for. Texts are those of Kubernetes 1.34 to 1.36.
"""

import re

from bridge.errors import SbridgeError, TemporaryError
from bridge.runtimes.kubernetes.admission import POLICIES
from bridge.runtimes.kubernetes.api import RefusedError
from bridge.runtimes.sandbox import UserError

_LONGEST_REASON = 400
# Not the job's doing: the namespace, or what `kubernetes.*` of the configuration names.
_UNPREPARED = re.compile(
    rf"ValidatingAdmissionPolicy '{re.escape(POLICIES)}|violates PodSecurity"
    r"|because it is being terminated|no PriorityClass with name|RuntimeClass .* not found"
    r"|error looking up service account|status unknown for quota"
)
# RBAC's own words: policies and webhooks say "cannot" as well.
_NO_RIGHT = re.compile(r'is forbidden: User "[^"]*" cannot \w+ resource')
_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")
_UNITS = {
    "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def blame(error: RefusedError, what: str) -> SbridgeError:
    """Return who is to blame for the API server's no to creating `what`."""
    text = error.message[:_LONGEST_REASON]
    quota = _QUOTA.search(error.message)
    if quota:
        return _over_quota(quota, what)
    if error.status == 401:
        return TemporaryError(f"the cluster does not take the agent's credentials: {text}")
    if error.status == 403 and _NO_RIGHT.search(text):
        hint = "`sbridge kubernetes apply` gives the agent its role."
        return TemporaryError(f"the cluster does not let the agent make {what}: {text}. {hint}")
    if error.status == 409:
        return TemporaryError(f"the cluster was changing while {what} was made: {text}")
    if error.status == 404 or _UNPREPARED.search(text):
        return TemporaryError(f"the cluster is not prepared for {what}: {text}")
    return UserError(f"the cluster does not admit {what}: {text}")


def _over_quota(quota: re.Match[str], what: str) -> SbridgeError:
    """Blame the user for a job that can never fit, nobody where others leave no room."""
    name, requested, used, limited = quota.groups()
    limits = _amounts(limited)
    asked = f"requested {requested}, used {used}, limited to {limited}"
    if any(amount > limits.get(key, amount) for key, amount in _amounts(requested).items()):
        return UserError(f"{what} does not fit into quota {name} of its namespace: {asked}")
    return TemporaryError(f"waiting for room in quota {name} of the namespace: {asked}")


def _amounts(text: str) -> dict[str, float]:
    """Read `requests.cpu=2,requests.memory=1Gi`."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {key: _amount(value) for key, _, value in pairs}


def _amount(text: str) -> float:
    """Read a Kubernetes quantity."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)([A-Za-z]*)", text)
    return float(match[1]) * _UNITS.get(match[2], 1.0) if match else 0.0
