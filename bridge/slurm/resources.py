"""What a job file's #SBATCH options ask for on one node.

Slurm decides what a job gets; this is what it gives in the simple cases, without the site's
defaults (DefMemPerCPU), whole cores or memory that raises the number of CPUs.
"""

import math
import re
from dataclasses import dataclass

from validator.options import Options

_UNITS_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_MOST_MIB = 1 << 30
_MEMORY = re.compile(r"(\d{1,19})([KMGT]?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Resources:
    """`cpus`, `memory_mib` (0 for no limit) and `gpus` on one of `nodes` nodes."""

    cpus: int = 1
    memory_mib: int = 0
    gpus: int = 0
    nodes: int = 1


def asked_for(options: Options) -> Resources:
    """Return what the options ask for, on the first node; raises ValueError for no numbers."""
    nodes = int(re.sub(r"\D.*", "", options.nodes or "1") or 1)
    tasks = _spread(int(options.ntasks), nodes) if options.ntasks else 1
    if options.ntasks_per_node:
        tasks = int(options.ntasks_per_node)
    cpus = tasks * int(options.cpus_per_task or 1)
    memory = (
        memory_mib(options.mem) if options.mem else cpus * memory_mib(options.mem_per_cpu or "0")
    )
    return Resources(cpus, memory, _gpus(options, nodes), nodes)


def memory_mib(text: str) -> int:
    """Read an amount as --mem takes it, such as 8G; in MiB without a unit, and rounded up.

    Raises ValueError for what is none, or can be no node's.
    """
    match = _MEMORY.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no amount of memory such as 8G")
    amount = math.ceil(int(match[1]) * _UNITS_MIB[match[2].upper() or "M"])
    if amount > _MOST_MIB:
        raise ValueError(f"{text!r} is more memory than any node has")
    return amount


def _gpus(options: Options, nodes: int) -> int:
    if options.gpus_per_node:
        return _count(options.gpus_per_node)
    if options.gpus:
        return _spread(_count(options.gpus), nodes)
    return sum(map(_gres_gpus, (options.gres or "").split(",")))


def _gres_gpus(text: str) -> int:
    """Read `gpu`, `gpu:2`, `gpu:a100` and `gpu:a100:2`; 0 for another resource."""
    name, *rest = text.split(":")
    if name != "gpu":
        return 0
    return int(rest[-1]) if rest and rest[-1].isdigit() else 1


def _count(text: str) -> int:
    """Read `2`, `a100:2` and `a100:2,h100:1`."""
    return sum(int(part.rpartition(":")[2]) for part in text.split(","))


def _spread(count: int, nodes: int) -> int:
    return -(-count // nodes)
