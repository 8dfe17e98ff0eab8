"""The variables that an image sets (ENV), told from all that its sandbox began with.

What is not the image's is left out, and so is what a job has from Slurm or its user even where
it has not got it: who he is, where he is, and the node's clock.
"""

from collections.abc import Iterable

# Set by Podman, containerd or the shell; or the user's and the node's own business.
_NOT_TAKEN = frozenset(
    "HOME HOSTNAME LOGNAME NVIDIA_VISIBLE_DEVICES OLDPWD PWD SHELL SHLVL TERM TZ USER _"
    " container".split()
)
_NOT_TAKEN_PREFIXES = (
    "K8S_",
    "KUBERNETES_",
    "PMI",
    "SALLOC_",
    "SBATCH_",
    "SBRIDGE_",
    "SLURM",
    "SRUN_",
)


def among(pairs: Iterable[str]) -> dict[str, str]:
    """Return the image's own variables among these NAME=value pairs."""
    split = (pair.partition("=") for pair in pairs)
    return {name: value for name, equals, value in split if equals and _is_taken(name)}


def _is_taken(name: str) -> bool:
    return bool(name) and name not in _NOT_TAKEN and not name.startswith(_NOT_TAKEN_PREFIXES)
