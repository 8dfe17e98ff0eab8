"""The pod of a sandbox, golden."""

import dataclasses

import pytest

from bridge.config import Kubernetes
from bridge.errors import ConfigError
from bridge.job_spool import RunId
from bridge.runtimes import manifest
from bridge.runtimes.sandbox import Mount, SandboxSpec

SPEC = SandboxSpec(
    name="slurm-job-12-r1",
    run=RunId(12, 1),
    node="n1",
    image="nas-hub.local:5407/alpine:latest",
    uid=1001,
    gid=1002,
    groups=(1002, 1003),
    user="alice",
    account="lab",
    partition="main",
    cpus=2,
    memory_mib=1000,
    mounts=(Mount("/home", "/home"), Mount("/s/passwd", "/etc/passwd", True, True)),
    host_network=True,
)


def test_pod_is_as_agreed():
    assert manifest.pod(SPEC, manifest.Site(pull_policy="Never")) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "slurm-job-12-r1",
            "labels": {
                "app": "slurm-job",
                "job-id": "12",
                "sbridge/restart": "1",
                "sbridge/node": "n1",
                "sbridge/user": "alice",
                "sbridge/account": "lab",
                "sbridge/partition": "main",
                "app.kubernetes.io/name": "slurm-job",
                "app.kubernetes.io/instance": "slurm-job-12-r1",
                "app.kubernetes.io/component": "sandbox",
                "app.kubernetes.io/part-of": "sbridge",
                "app.kubernetes.io/managed-by": "sbridge",
            },
            "annotations": {"sbridge/user": "alice", "sbridge/slurm-node": "n1"},
        },
        "spec": {
            "restartPolicy": "Never",
            "hostNetwork": True,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsUser": 1001,
                "runAsGroup": 1002,
                "supplementalGroups": [1002, 1003],
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "sandbox",
                    "image": "nas-hub.local:5407/alpine:latest",
                    "imagePullPolicy": "Never",
                    "command": ["/sbridge/init", "-P"],
                    "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
                    "workingDir": "/",
                    "resources": {
                        "limits": {"cpu": "2", "memory": "1000Mi"},
                        "requests": {"cpu": "2", "memory": "1000Mi"},
                    },
                    "securityContext": {
                        "privileged": False,
                        "allowPrivilegeEscalation": False,
                        "runAsNonRoot": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "mount-0", "mountPath": "/home", "readOnly": False},
                        {"name": "mount-1", "mountPath": "/etc/passwd", "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                {"name": "mount-0", "hostPath": {"path": "/home", "type": "Directory"}},
                {"name": "mount-1", "hostPath": {"path": "/s/passwd", "type": "File"}},
            ],
        },
    }


def test_no_allocation_means_no_limit():
    spec = dataclasses.replace(SPEC, cpus=0, memory_mib=0)
    container = manifest.pod(spec, manifest.Site())["spec"]["containers"][0]
    assert container["resources"] == {"limits": {}, "requests": {}}


def test_a_silent_kubelet_neither_keeps_the_pod_away_nor_throws_it_out():
    site = manifest.Site(kubernetes_node="k1", tolerations=({"key": "gpu", "operator": "Exists"},))
    tolerations = manifest.pod(SPEC, site)["spec"]["tolerations"]
    assert tolerations == [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "gpu", "operator": "Exists"},
    ]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("gpu02", "gpu02.example.org"),
        ("n3", "k1"),
        ("big", "small"),
        ("other", "other"),
    ],
)
def test_a_slurm_node_has_the_name_of_the_table_or_its_own(node, name):
    names = ("gpu[01-02]=gpu[01-02].example.org", "n[1-3]=k1", "big=small")
    assert manifest.kubernetes_node(Kubernetes(node_names=names), node) == name


@pytest.mark.parametrize("entry", ["n1", "n1=", "n[1-3]=k[1-2]", "n[a-b]=k1"])
def test_an_entry_of_the_table_that_cannot_be_meant_is_the_administrators_error(entry):
    with pytest.raises(ConfigError, match=r"kubernetes\.node_names"):
        manifest.kubernetes_node(Kubernetes(node_names=(entry,)), "n1")


def test_a_pod_in_its_users_namespace_says_so_and_whose_site_it_is():
    settings = Kubernetes(namespace="jobs", user_namespaces=True)
    plain = manifest.pod(
        SPEC, manifest.Site.of(dataclasses.replace(settings, user_namespaces=False), "n1")
    )
    made = manifest.pod(SPEC, manifest.Site.of(settings, "n1"))
    assert made["metadata"].pop("namespace") == "user-alice"
    assert made["metadata"]["labels"].pop("sbridge/site") == "jobs"
    assert made == plain


def test_device_files_are_shown_unless_a_runtime_class_brings_them_in():
    spec = dataclasses.replace(SPEC, gpus=(1,), devices=("/dev/gpu1",))

    def shown(site):
        made = manifest.pod(spec, site)["spec"]
        mounts = made["containers"][0]["volumeMounts"]
        return made["volumes"][len(SPEC.mounts) :], mounts[len(SPEC.mounts) :]

    device = {"name": "device-0", "hostPath": {"path": "/dev/gpu1", "type": "CharDevice"}}
    assert shown(manifest.Site()) == (
        [device],
        [{"name": "device-0", "mountPath": "/dev/gpu1"}],
    )
    assert shown(manifest.Site(gpu_runtime_class="nvidia")) == ([], [])


def test_folders_that_an_image_might_link_to_are_not_mounted_by_the_runtime():
    spec = dataclasses.replace(SPEC, folders=(Mount("/mnt/nas", "/mnt/nas", True),))
    made, without = (manifest.pod(each, manifest.Site())["spec"] for each in (spec, SPEC))
    assert made["containers"] == without["containers"]
    folder = {"name": "mount-2", "hostPath": {"path": "/mnt/nas", "type": "Directory"}}
    assert made["volumes"][-1] == folder


def test_every_label_is_one_to_kubernetes_however_long_the_names_are():
    long = dataclasses.replace(SPEC, name="slurm-job-1234567-" + "n" * 60, node="n" * 64)
    made = manifest.pod(long, manifest.Site())
    assert all(len(value) <= 63 for value in made["metadata"]["labels"].values())
