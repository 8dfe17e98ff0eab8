"""The GPUs that nodes pretend to have: character devices that no driver stands behind.

Opening one that the devices cgroup allows fails with ENXIO, any other with EPERM. A cluster's
are in a folder of its own, the same for each of its nodes. Their numbers do not begin with 0,
so that what Slurm calls a GPU (its place in gres.conf) is not its device's number.

They may also be parts of one GPU, as MIG makes them: each has the file of that one, and another
one of its own.
"""

import contextlib
import os
import stat
from pathlib import Path

from cluster import Cluster
from machine import may_use_slot

_MAJOR = 240  # for local and experimental use, says Linux' list of devices
_FIRST = 8
_MODE = 0o666


def patterns(cluster: Cluster) -> list[str]:
    """Return the device files as sbridge.toml's sandbox.gpu_devices has them."""
    if cluster.settings.gpu_kind == "whole":
        return [f"{_folder(cluster)}/gpu{{index+{_FIRST}}}"]
    files = enumerate(_files(cluster))
    return [f"{index}:{path}" for index, paths in files for path in paths]


def make_devices(cluster: Cluster) -> None:
    """Make the device files; those that are there stay."""
    for path in {path for paths in _files(cluster) for path in paths}:
        number = int(path.name.removeprefix("gpu"))
        path.parent.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFCHR | _MODE, os.makedev(_MAJOR, 100 * cluster.slot + number))
            path.chmod(_MODE)  # whatever the umask is


def devices_left(cluster: Cluster) -> list[Path]:
    """Return the device files of this cluster, also of more GPUs than it has now."""
    folder = _folder(cluster)
    return sorted(folder.iterdir()) if may_use_slot(cluster) and folder.is_dir() else []


def remove_devices(cluster: Cluster) -> int:
    """Remove the cluster's device files; return how many there were."""
    found = devices_left(cluster)
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        _folder(cluster).rmdir()
    return len(found)


def gres_conf(cluster: Cluster) -> str:
    """Return gres.conf's lines."""
    nodes = ",".join(cluster.nodes)
    key = "File" if cluster.settings.gpu_kind == "whole" else "MultipleFiles"
    return "\n".join(
        f"NodeName={nodes} Name=gpu {key}={','.join(map(str, paths))}" for paths in _files(cluster)
    )


def _folder(cluster: Cluster) -> Path:
    return Path(f"/dev/sbridge-dev{cluster.slot}")


def _files(cluster: Cluster) -> list[list[Path]]:
    """Return the files of each GPU, in gres.conf's order."""
    numbers = range(_FIRST, _FIRST + cluster.settings.gpus)
    own = [_folder(cluster) / f"gpu{number}" for number in numbers]
    if cluster.settings.gpu_kind == "whole":
        return [[path] for path in own]
    shared = _folder(cluster) / f"gpu{_FIRST - 1}"
    return [[shared, path] for path in own]
