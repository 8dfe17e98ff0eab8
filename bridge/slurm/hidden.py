"""What of a sandbox's environment Slurm's commands on the node are not shown by its own name.

The tasks that these start have it back (`bridge.agent.blueprint.environment`).
"""

import os

# The loader's variables name files of the image; they would be looked for on the node.
_LOADER = (b"LD_", b"GLIBC_TUNABLES")
KEPT = b"SBRIDGE_KEPT_"
JOB_NAME = b"SLURM_JOB_NAME"
_EXPORTS = (b"SLURM_EXPORT_ENV", b"SRUN_EXPORT_ENV")  # what srun reads as its --export
IGNORES_PIPE = b"SBRIDGE_IGNORES_PIPE"  # the asking process does not, but its caller did
# This sandbox's own: tasks that enter get them anew, and other jobs shall not have them.
_OF_THE_SANDBOX = frozenset({b"SBRIDGE_DOOR", b"SBRIDGE_OUTPUTS", IGNORES_PIPE})


def for_the_node(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment with the loader's variables under names that start with `KEPT`."""
    result = {
        KEPT + key if key.startswith(_LOADER) else key: value
        for key, value in environment.items()
        if key not in _OF_THE_SANDBOX
    }
    exports = {key: result[key] for key in _EXPORTS if key in result}
    return result | {
        key: os.fsencode(exported(os.fsdecode(value))) for key, value in exports.items()
    }


def kept_job_name(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what gives tasks the job's name back: srun calls the job as we call its step."""
    return {KEPT + JOB_NAME: environment[JOB_NAME]} if JOB_NAME in environment else {}


def exported(value: str) -> str:
    """Return a value of srun's --export with the loader's variables called as srun knows them."""
    if "'" in value or '"' in value:
        return value  # commas part no names there
    words = (os.fsencode(word) for word in value.split(","))
    return os.fsdecode(
        b",".join(KEPT + word if word.startswith(_LOADER) else word for word in words)
    )
