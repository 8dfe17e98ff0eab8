"""What tasks see of GPUs that are pretended: variables, and device files.

Opening a file ends with ENXIO (no driver) where the devices cgroup allows it, and with EPERM
where it does not.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

# What programs can see of GPUs, each line with who sees it: variables, and each device file with
# how opening it ends.
LOOK = r"""
case $SLURM_STEP_ID in
    '' | -*) place=$SLURMD_NODENAME/batch/ ;; # Slurm 26.05 gives the batch step a number, too
    *) place=$SLURMD_NODENAME/$SLURM_STEP_ID/$SLURM_PROCID ;;
esac
names='CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|ZE_AFFINITY_MASK|GPU_DEVICE_ORDINAL|SLURM_.*GPUS.*'
echo "$place looks"
env | grep -E "^($names)=" | sort | sed "s|^|$place |"
for file in /dev/sbridge-dev$((${SLURMD_NODENAME#n} / 100))/gpu*; do
    [ -c "$file" ] && echo "$place ${file##*/}: $( (: <"$file") 2>&1 | sed 's/.*: //')"
done
true
"""
USABLE = "No such device or address"


@dataclass
class Sight:
    """What one task, or the batch script, sees: device files that it can use, and all of them."""

    usable: set[str] = field(default_factory=set)
    visible: set[str] = field(default_factory=set)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def can_use(self) -> tuple[set[str], dict[str, str]]:
        """Return what natively is the same: there, all files of the node can be seen."""
        return self.usable, self.variables


def sights(text: str) -> dict[str, Sight]:
    """Return what each task saw, by node, step and task."""
    found: dict[str, Sight] = {}
    for place, what in re.findall(r"^(\S+/\S+/\S*) (.*)", text, re.MULTILINE):
        sight = found.setdefault(place, Sight())
        if device := re.fullmatch(r"(gpu\d+): (.*)", what):
            sight.visible.add(device[1])
            if device[2] == USABLE:
                sight.usable.add(device[1])
        elif what != "looks":
            name, _, value = what.partition("=")
            sight.variables[name] = value
    return found


def can_use(seen: dict[str, Sight]) -> dict[str, object]:
    """Return what each task can use, by place."""
    return {place: sight.can_use for place, sight in seen.items()}


def of_batch(text: str) -> Sight:
    """Return what the batch script saw."""
    (sight,) = (sight for place, sight in sights(text).items() if "/batch/" in place)
    return sight


def put_look(folder: Path) -> Path:
    """Write a program that looks, for natively and in sandboxes; returns its path."""
    path = folder / "look"
    path.write_text(f"#!/bin/bash\n{LOOK}")
    path.chmod(0o755)
    return path
