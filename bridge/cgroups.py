"""Cgroups, of v1 and v2: what a process is in, and what is in them.

A cgroup is named by its path in its hierarchy, and a hierarchy by its controllers, "" for v2.
"""

import contextlib
import functools
import os
import re
import signal
from pathlib import Path

from bridge import kernel

# v1: /slurm_n1/uid_1001/job_2/… ; v2: /system.slice/n1_slurmstepd.scope/job_2/…
_SLURM_CGROUP = re.compile(r"/[^/]*slurm[^/]*/(?:uid_\d+/)?job_(\d+)/")
_MOUNTS = Path("/proc/self/mountinfo")


def of_process(process: int) -> dict[str, str]:
    """Return the process's cgroups: controllers ("" for v2) → path."""
    # Only the kernel's own line ends count: a path may be a user's and hold others.
    lines = os.fsdecode(kernel.read(process, "cgroup")).strip("\n").split("\n")
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


@functools.cache
def hierarchies() -> dict[str, Path]:
    """Return where each hierarchy is mounted: its mount options ("" for v2) → path.

    Read once: mountinfo is long where sandboxes are, and hierarchies stay where they are.
    """
    mounts: dict[str, Path] = {}
    for line in os.fsdecode(_MOUNTS.read_bytes()).strip("\n").split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = before.split(" ")
        if place[3] != "/":
            continue
        if kind == "cgroup2":
            mounts[""] = Path(place[4])
        elif kind == "cgroup":
            mounts[options.rpartition(" ")[2]] = Path(place[4])
    return mounts


def open_lists(paths: dict[str, str]) -> list[int]:
    """Open the given cgroups (`of_process` of a process): a pid written to one moves there."""
    mounts = hierarchies()
    opened: list[int] = []
    try:
        for controllers, path in paths.items():
            mount = _mount_of(controllers, mounts)
            if mount is not None:
                procs = f"{mount}/{path.lstrip('/')}/cgroup.procs"
                opened.append(os.open(procs, os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def expect_move() -> None:
    """Wait, in the place of a move that follows soon, for the kernel to be ready for it.

    The first move after some idle time waits for an RCU grace period, ten milliseconds and
    more, and so does this one, of the calling process to where it is. For cgroup v1 and v2.
    """
    own = kernel.open_process(os.getpid())
    try:
        paths = of_process(own)
    finally:
        os.close(own)
    with contextlib.suppress(OSError):
        for descriptor in open_lists(dict([min(paths.items())])):
            try:
                os.write(descriptor, b"0")
            finally:
                os.close(descriptor)


def is_empty(path: str) -> bool:
    """Whether no process is left in the cgroup or below it, in any hierarchy."""
    return not _processes(path)


def kill(path: str) -> None:
    """Kill every process in the cgroup and below it, in any hierarchy."""
    for pid in _processes(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(path: str) -> set[str]:
    """Return the names of the cgroups in this one, of all hierarchies."""
    found: set[str] = set()
    for mount in hierarchies().values():
        with contextlib.suppress(OSError), os.scandir(mount / path.lstrip("/")) as entries:
            found.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return found


def remove(path: str) -> bool:
    """Remove the cgroup and those below it from every hierarchy; False when some are in use."""
    tops = [mount / path.lstrip("/") for mount in hierarchies().values()]
    for top in tops:
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    return not any(top.exists() for top in tops)


def _processes(path: str) -> set[int]:
    found: set[int] = set()
    for mount in hierarchies().values():
        for folder, _, _ in os.walk(mount / path.lstrip("/")):  # unlike glob, bears their removal
            with contextlib.suppress(OSError):
                found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return found


def hierarchy(controllers: str) -> Path | None:
    """Return where the hierarchy of these controllers ("" for v2) is mounted, if it is."""
    return _mount_of(controllers, hierarchies())


def _mount_of(controllers: str, mounts: dict[str, Path]) -> Path | None:
    if not controllers:
        return mounts.get("")
    wanted = set(controllers.split(","))
    for options, path in mounts.items():
        if options and wanted <= set(options.split(",")):
            return path
    return None


def is_slurms(paths: dict[str, str]) -> bool:
    """Whether Slurm made a cgroup for the process (proctrack/cgroup or task/cgroup)."""
    return any(_SLURM_CGROUP.search(path) for path in paths.values())


def job_of(paths: dict[str, str]) -> int:
    """Return the id of the job whose cgroup these are, 0 where Slurm made none."""
    found = [match for path in paths.values() if (match := _SLURM_CGROUP.search(path))]
    return int(found[0][1]) if found else 0
