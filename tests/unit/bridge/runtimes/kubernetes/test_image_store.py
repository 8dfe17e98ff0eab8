"""Who is blamed when something speaks of a full disk; the disk itself is an integration test's."""

from pathlib import Path

from bridge.runtimes.kubernetes import image_store, processes
from bridge.runtimes.kubernetes.pulling import DiskError

SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"


def test_without_a_process_of_the_pod_the_words_blame_nobody():
    pod = {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}}
    said = DiskError("image x cannot be stored: no space left on device")
    assert image_store.blame(said, pod) is said


def test_the_folder_of_a_containers_root_is_read_from_its_mounts():
    mounts = (
        "1 2 0:3 / /home rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c\n"
        f"9 2 0:9 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir={SNAPSHOTS}/7/fs\n"
    )
    assert processes.upper_folder(mounts) == Path(SNAPSHOTS, "7", "fs")


def test_a_root_that_is_no_overlay_has_no_such_folder():
    assert processes.upper_folder("1 2 0:3 / / rw - ext4 /dev/sda1 rw,upperdir=/x\n") is None
