"""GPUs, the image's variables and the attributes of processes in a pod."""

import json

import pytest

from tests.integration import process_attributes
from tests.integration.gpus_in_sight import of_batch, put_look, sights
from tests.integration.slurm_on_kubernetes import BASH
from tests.integration.submitted_job import script

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.kubernetes,
    pytest.mark.usefixtures("clean_afterwards"),
]

RUNTIME_CLASS = "sbridge-gpu"
LOOK = r"""echo "CUDA $CUDA_VISIBLE_DEVICES"
for file in /dev/sbridge-dev*/gpu*; do
    [ -c "$file" ] && echo "${file##*/}: $( (: <"$file") 2>&1 | sed 's/.*: //')"
done
echo ready
"""
USABLE = "No such device or address"


@pytest.fixture(scope="module")
def cluster(slurm_on_kubernetes):
    """Give Slurm's only node three GPUs, and have Kubernetes' node count them, too."""
    slurm_on_kubernetes.up(gpus=3, nodes=1)
    resource = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "8"}
    node = ["patch", "node", slurm_on_kubernetes.kubernetes_node, "--subresource=status"]
    slurm_on_kubernetes.kubernetes.kubectl(*node, "--type=json", f"-p={json.dumps([resource])}")
    yield slurm_on_kubernetes
    resource = {"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}
    slurm_on_kubernetes.kubernetes.kubectl(*node, "--type=json", f"-p={json.dumps([resource])}")
    slurm_on_kubernetes.up(gpus=0, nodes=2)


def container_of(pod):
    (container,) = pod["spec"]["containers"]
    return container


def visible(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}["NVIDIA_VISIBLE_DEVICES"]


def test_a_pod_has_the_granted_devices_and_counts_them(cluster, job):
    ran = job(script(f"{LOOK}sleep 987\n", BASH, "/bin/bash"), "--gres=gpu:2").wait_to_write()
    assert ran.out.splitlines() == ["CUDA 0,1", f"gpu8: {USABLE}", f"gpu9: {USABLE}", "ready"]
    container = container_of(cluster.pod(ran.job_id))
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert visible(container) == "0,1"


def test_a_job_without_gpus_has_none_in_its_pod(cluster, job):
    ran = job(script(f"{LOOK}sleep 987\n", BASH, "/bin/bash")).wait_to_write()
    assert ran.out.splitlines() == ["CUDA ", "ready"]
    container = container_of(cluster.pod(ran.job_id))
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert visible(container) == "void"


def test_steps_in_a_pod_use_no_more_than_slurm_gave_them(cluster, job, shared_dir):
    look = put_look(shared_dir("alice"))
    body = f"{look}; srun --gres=gpu:1 {look}; srun --gres=none {look}; srun {look}\n"
    ran = job(script(body, BASH, "/bin/bash"), "--gres=gpu:2")
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    seen = {place.partition("/")[2]: sight for place, sight in sights(ran.out).items()}
    usable = {place: len(sight.usable) for place, sight in seen.items()}
    assert usable == {"batch/": 2, "0/0": 1, "1/0": 0, "2/0": 2}
    assert {frozenset(sight.visible) for sight in seen.values()} == {frozenset({"gpu8", "gpu9"})}
    assert seen["1/0"].variables.get("CUDA_VISIBLE_DEVICES") is None


def test_pods_of_one_node_at_the_same_time_share_no_gpu(cluster, job, shared_dir):
    look = put_look(shared_dir("alice"))
    body = f"{look}; echo ready; sleep 987\n"
    ran = [job(script(body, BASH, "/bin/bash"), f"--gres=gpu:{count}") for count in (1, 2)]
    seen = [of_batch(each.wait_to_write().out) for each in ran]
    assert [sorted(sight.usable) for sight in seen] == [["gpu8"], ["gpu10", "gpu9"]]
    assert [sight.visible for sight in seen] == [sight.usable for sight in seen]
    shown = [visible(container_of(cluster.pod(each.job_id))) for each in ran]
    assert shown == ["0", "1,2"]


def test_a_runtime_class_gets_slurms_choice_and_brings_the_devices_in(cluster, job):
    runtime_class = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": RUNTIME_CLASS},
        "handler": "runc",  # which brings nothing in
    }
    cluster.create(runtime_class)
    settings = (f'kubernetes.gpu_runtime_class="{RUNTIME_CLASS}"', 'kubernetes.gpu_resource=""')
    try:
        with cluster.settings(*settings):
            ran = job(script(f"{LOOK}sleep 987\n", BASH, "/bin/bash"), "--gres=gpu:3")
            ran.wait_to_write()
            pod = cluster.pod(ran.job_id)
            cluster.scancel(ran.job_id)
            ran.wait()
    finally:
        cluster.kubectl("delete", "runtimeclass", RUNTIME_CLASS)
    assert pod["spec"]["runtimeClassName"] == RUNTIME_CLASS
    assert "nvidia.com/gpu" not in container_of(pod)["resources"]["limits"]
    assert visible(container_of(pod)) == "0,1,2"
    assert ran.out.splitlines() == ["CUDA 0,1,2", "ready"]


def test_every_attribute_is_the_native_one(job):
    seen = []
    for image in ("", BASH):
        ran = job(script(process_attributes.body(), image, "/bin/bash"))
        assert ran.end == ("COMPLETED", "0:0"), ran.err
        seen.append(process_attributes.read(ran.out))
    assert set(seen[0]) == set(process_attributes.SHOWN)
    assert seen[1] == seen[0]


def test_more_than_64_mib_of_shared_memory_can_be_used(job):
    fill = "head -c 80000000 /dev/zero >/dev/shm/x && wc -c </dev/shm/x\n"
    ran = job(script(fill, BASH), "--mem=300")
    assert (ran.end, ran.out, ran.own_err) == (("COMPLETED", "0:0"), "80000000\n", "")


def test_no_variable_of_the_cluster_or_the_runtime_reaches_a_job(job):
    ran = job(script("env\n", BASH))
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    names = {line.partition("=")[0] for line in ran.out.splitlines()}
    assert not {name for name in names if name.startswith(("KUBERNETES_", "NVIDIA_"))}
