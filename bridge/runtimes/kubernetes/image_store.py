"""Whether the disk where this node's container runtime keeps images takes what is written to it.

Where that is, no API tells. But a pod that waits for its image has a process already, which
holds its network, and the kernel tells where that one's root is kept.
"""

from pathlib import Path

from bridge import disk
from bridge.errors import NodeError, SbridgeError
from bridge.runtimes.kubernetes import processes
from bridge.runtimes.kubernetes.api import Object
from bridge.runtimes.kubernetes.pulling import DiskError

# containerd's downloads, seen from its snapshots; CRI-O has one folder for all.
_DOWNLOADS = "io.containerd.content.v1.content/ingest"


def check(pod: Object) -> None:
    """Raise `NodeError` when it is full or broken; see nothing wrong where it is not found."""
    root = processes.root_folder(pod["metadata"]["uid"])
    for folder in _folders(root) if root else ():
        if folder.is_dir():
            disk.check(folder)


def blame(error: DiskError, pod: Object) -> SbridgeError:
    """Return whose fault it is: the node's only if its disk is found full or broken."""
    try:
        check(pod)
    except NodeError:
        return NodeError(error.message)
    return error


def _folders(root: Path) -> tuple[Path, ...]:
    # <containerd's root>/io.containerd.snapshotter.v1.overlayfs/snapshots/<n>/fs
    return root.parent.parent, *(place / _DOWNLOADS for place in root.parents[3:4])
