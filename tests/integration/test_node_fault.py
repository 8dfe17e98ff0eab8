"""A node whose disk is full for a while: drained, left alone, and resumed when it has room."""

import contextlib
import json
import subprocess

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

SCRIPT = "#!/bin/bash\n#SBATCH --mem=200\n#K8S_IMAGE=localhost/sbridge-demo:latest\necho ran\n"


class Disk:
    """A small file system where a node's agent keeps its records."""

    def __init__(self, place):
        self.place = place
        self._mount("-t", "tmpfs", "-o", "size=1M,mode=755", "none", str(place))
        self._filling = place / "something large"
        with contextlib.suppress(OSError):
            self._filling.write_bytes(bytes(2 << 20))

    def clear(self):
        self._filling.unlink(missing_ok=True)

    def enlarge(self):
        self._mount("-o", "remount,size=256M", str(self.place))

    def remove(self):
        subprocess.run(["umount", str(self.place)], check=True)

    def _mount(self, *options):
        subprocess.run(["mount", *options], check=True)


@pytest.fixture
def node(cluster):
    return cluster.nodes[0]


@pytest.fixture
def full_disk(cluster, node):
    """Fill the disk of a node's spool."""
    cluster.wait_for(lambda: cluster.leftovers() == [])
    disk = Disk(cluster.spool / node / "jobs")
    yield disk
    disk.enlarge()
    cluster.wait_for(lambda: cluster.drained_nodes() == {})
    disk.remove()


def looks_in_vain(cluster, node):
    lines = (cluster.logs / f"agent-{node}.log").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if event["event"] == "node_still_at_fault"]


def test_a_full_disk_drains_the_node_until_it_has_room_again(cluster, node, full_disk, shared_dir):
    out = shared_dir("alice") / "out"
    job_id = cluster.sbatch("alice", SCRIPT, "-w", node, "-o", str(out), "-e", "/dev/null")
    cluster.wait_for(cluster.drained_nodes)
    reason = cluster.drained_nodes()[node]
    assert reason.startswith("sbridge: ")
    assert "No space left on device" in reason
    cluster.wait_for(lambda: looks_in_vain(cluster, node), what="the agent looks in vain")
    assert set(cluster.drained_nodes()) == {node}
    full_disk.enlarge()
    cluster.wait_for(lambda: cluster.drained_nodes() == {}, what="the agent finds room")
    cluster.start_requeued(job_id)
    cluster.wait_job(job_id, "COMPLETED")
    assert out.read_text() == "ran\n"
    full_disk.clear()
    cluster.wait_for(lambda: cluster.leftovers() == [str(full_disk.place)])
