"""What a run's steps have used on this node, as their keepers saw it; a line for each ended step.

Slurm's numbers are of what slurmstepd may wait for, which is sbridge-run, and of what it sampled:
they lack fractions of seconds, steps of a few seconds, and all that is used where it counts
without cgroups. A keeper waits for the script itself. Neither sees more than there is.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """CPU time of all steps, and the memory of their largest process; 0 where nobody knows."""

    cpu_s: float = 0.0
    max_rss_kib: int = 0


def note(path: str, used: resource.struct_rusage) -> None:
    """Add what a step and the children that it waited for have used.

    Until its exec the script's process had a keeper's memory, which is not what the script used.
    """
    own_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rss_kib = used.ru_maxrss if used.ru_maxrss > own_kib else 0
    line = f"{used.ru_utime + used.ru_stime:.3f} {rss_kib}\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return  # the disk is full, or the job's folder gone: Slurm's numbers remain
    try:
        os.write(descriptor, line.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)


def read(path: Path) -> Usage:
    """Return what all steps together used; lines that cannot be read count for nothing."""
    cpu_s, rss_kib = 0.0, 0
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return Usage()
    for line in lines:
        try:
            seconds, kib = line.split()
            cpu_s, rss_kib = cpu_s + float(seconds), max(rss_kib, int(kib))
        except ValueError:
            continue  # cut off when the disk was full
    return Usage(cpu_s, rss_kib)
