"""What a user reads while his pod does not run yet, and who has to act when it never will."""

import contextlib
import functools
import json
import subprocess

import pytest

from tests.integration.bad_registry import (
    free_port,
    refusing_registry,
    silent_registry,
    slow_registry,
)
from tests.integration.pushed_image import push
from tests.integration.running_kubernetes import IMAGES
from tests.integration.slurm_on_kubernetes import ALPINE, ON_PODS
from tests.integration.submitted_job import script

pytestmark = [*ON_PODS, pytest.mark.usefixtures("clean_afterwards")]

ABSENT = f"{IMAGES}/absent:1"
PATIENCE_S = 6  # of jobs, where a test waits for its end; half of it is a node's
POLICIES = {"apiVersion": "admissionregistration.k8s.io/v1"}


@pytest.fixture
def registry(cluster):
    """Give the address of the cluster's own registry."""
    return cluster.kubernetes.environment["SBRIDGE_K8S_REGISTRY"]


@pytest.fixture
def named(cluster):
    """Create objects of the cluster's that end with the test."""
    with contextlib.ExitStack() as stack:

        def named(kind, name, **content):
            version = content.pop("version", {"apiVersion": "v1"})
            cluster.create({**version, "kind": kind, "metadata": {"name": name}, **content})
            stack.callback(cluster.kubectl, "delete", kind, name)

        yield named


@pytest.fixture
def summary(cluster):
    """Drop a job file and return the summary of its run, once that is over."""

    def summary(text, name="dropped.sh"):
        cluster.drop("alice", name, text)
        cluster.wait_for(lambda: list(cluster.processed.glob(f"*_{name}")))
        (filed,) = cluster.processed.glob(f"*_{name}")
        folder = cluster.results / filed.name.split("_")[0]
        cluster.wait_for((folder / "job_summary.json").exists, what=f"results in {folder}")
        filed.unlink()
        found = json.loads((folder / "job_summary.json").read_text())
        return {**found, "stderr": (folder / "stderr.log").read_text()}

    return summary


def assert_failed(cluster, ran, reason):
    """Its user is to blame: it fails once and for all, with the reason on its last line."""
    assert ran.end == ("FAILED", "1:0"), ran.err
    assert ran.err.splitlines()[-1].startswith(f"sbridge: {reason}")
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}


def goes_on(cluster, ran):
    """It waited for what is over now; no run of it was lost, and no node."""
    assert ran.wait() == "COMPLETED", ran.err
    assert ran.out == "ran\n"
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}
    return ran.err


RUN = "echo ran\n"

# --- What the user asked for cannot be: the job fails at once ------------------------------------


def test_an_image_that_is_not_there_fails_the_job_with_the_registrys_reason(cluster, job):
    ran = job(script(RUN, ABSENT))
    assert_failed(cluster, ran, f"image {ABSENT} cannot be pulled: ")
    assert ran.err.endswith("not found\n")


def test_the_summary_of_a_dropped_job_tells_why_it_has_no_sandbox(cluster, summary):
    found = summary(script(RUN, ABSENT))
    assert (found["state"], found["exit_code"]) == ("FAILED", 1)
    assert found["reason"].startswith(f"image {ABSENT} cannot be pulled: ")
    assert found["stderr"] == f"sbridge: {found['reason']}\n"
    assert cluster.drained_nodes() == {}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_image_that_the_registry_does_not_give_fails_the_job(cluster, job, status):
    with refusing_registry(status) as address:
        ran = job(script(RUN, f"{address}/private:1"))
        assert_failed(cluster, ran, f"image {address}/private:1 cannot be pulled: ")


def test_a_name_that_no_image_can_have_fails_the_job(cluster, job):
    image = f"{IMAGES}/{'long' * 64}:1"
    ran = job(script(RUN, image))
    reason = "repository name must not be more than 255 characters"
    assert_failed(cluster, ran, f"image {image} cannot be used: {reason}")


def test_an_image_in_which_the_users_file_has_no_place_fails_the_job(cluster, job, registry):
    push(registry, "flat", {"etc": b"a file"})
    ran = job(script(RUN, f"{IMAGES}/flat"))
    assert_failed(cluster, ran, f"the sandbox with image {IMAGES}/flat cannot be made: ")
    assert "not a directory" in ran.err


def test_an_image_with_a_volume_that_cannot_be_fails_the_job(cluster, job, registry):
    push(registry, "loud", {"bin/file": b"a file"}, volumes=["/bin/file"])
    ran = job(script(RUN, f"{IMAGES}/loud"))
    assert_failed(cluster, ran, f"the sandbox with image {IMAGES}/loud cannot be made: ")


def test_an_image_with_a_variable_that_no_program_can_be_started_with_fails_the_job(
    cluster, job, registry
):
    push(registry, "wordy", {"a-file": b""}, variables=["WORDS=" + "x" * 128 * 1024])
    ran = job(script(RUN, f"{IMAGES}/wordy"))
    assert_failed(cluster, ran, f"the sandbox with image {IMAGES}/wordy cannot be made: ")
    assert "128 KiB" in ran.err


def test_a_registry_that_speaks_of_a_full_disk_fails_its_job_alone(cluster, job):
    with refusing_registry(403, "no space left on device") as address:
        ran = job(script(RUN, f"{address}/loud:1"))
        assert_failed(cluster, ran, f"image {address}/loud:1 cannot be pulled: ")
    assert "no space left on device" in ran.err


def test_an_image_that_speaks_of_a_full_disk_fails_its_job_alone(cluster, job, registry):
    push(registry, "full", {"file": b"a file"}, volumes=["/file/no space left on device"])
    ran = job(script(RUN, f"{IMAGES}/full"))
    assert_failed(cluster, ran, f"the sandbox with image {IMAGES}/full cannot be made: ")
    assert "no space left on device" in ran.err


def test_a_container_that_cannot_be_configured_fails_the_job(cluster, job, named):
    """Which a site's own changes to pods bring about, here a path below a file."""
    path = '"/spec/containers/0/volumeMounts/1/subPath"'
    here = {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    change = f'[JSONPatch{{op: "add", path: {path}, value: "below"}}]'
    named(
        "MutatingAdmissionPolicy",
        "tested",
        version=POLICIES,
        spec={
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": here,
                "resourceRules": [{**pods, "resources": ["pods"]}],
            },
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": change}}],
        },
    )
    binding = {"policyName": "tested"}
    named("MutatingAdmissionPolicyBinding", "tested", version=POLICIES, spec=binding)
    cluster.wait_for(lambda: "subPath" in dry_run(cluster).stdout, what="the policy in force")
    ran = job(script(RUN, ALPINE))
    assert_failed(cluster, ran, f"the sandbox with image {ALPINE} cannot be made: ")
    assert "subPath" in ran.err


def dry_run(cluster, *options):
    """Have the API server say what it makes of a sandbox's pod."""
    node = cluster.nodes[0]
    argv = ["kubernetes", "pod", f"--node={node}", "--user=alice", f"--image={ALPINE}"]
    printed = cluster.as_user("root", ["sbridge", *argv, *options])
    create = ["create", "--filename=-", "--dry-run=server", "--output=json"]
    return cluster.try_kubectl(*create, input=printed)


def test_a_job_that_no_quota_ever_has_room_for_fails(cluster, job, named):
    named("ResourceQuota", "small", spec={"hard": {"requests.memory": "50Mi"}})
    in_force(cluster, "small")
    ran = job(script(RUN, ALPINE))
    name = f"slurm-job-{ran.job_id}"
    assert_failed(cluster, ran, f"pod {name} does not fit into quota small of its namespace: ")
    assert "requested requests.memory=100Mi, used requests.memory=0" in ran.err


def in_force(cluster, quota):
    def is_counted():
        found = cluster.kubernetes.get("resourcequota", quota, f"--namespace={cluster.namespace}")
        return "used" in found["status"]

    cluster.wait_for(is_counted)


def test_what_a_limit_of_the_cluster_forbids_fails_the_job_with_its_words(cluster, job, named):
    limit = {"type": "Container", "max": {"memory": "50Mi"}}
    named("LimitRange", "low", spec={"limits": [limit]})
    cluster.wait_for(lambda: "maximum memory usage" in dry_run(cluster, "--memory=100M").stderr)
    ran = job(script(RUN, ALPINE))
    assert_failed(cluster, ran, f"the cluster does not admit pod slurm-job-{ran.job_id}: ")
    assert "maximum memory usage per Container is 50Mi" in ran.err


def test_what_a_policy_of_the_cluster_forbids_fails_the_job_with_its_words(cluster, job, named):
    here = {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    rule = "!object.spec.containers.exists(c, c.image.endsWith(':latest'))"
    named(
        "ValidatingAdmissionPolicy",
        "tags",
        version=POLICIES,
        spec={
            "matchConstraints": {
                "namespaceSelector": here,
                "resourceRules": [{**pods, "resources": ["pods"]}],
            },
            "validations": [{"expression": rule, "message": "name a version, not latest"}],
        },
    )
    spec = {"policyName": "tags", "validationActions": ["Deny"]}
    named("ValidatingAdmissionPolicyBinding", "tags", version=POLICIES, spec=spec)
    cluster.wait_for(lambda: "name a version" in dry_run(cluster).stderr)
    ran = job(script(RUN, ALPINE))
    assert_failed(cluster, ran, f"the cluster does not admit pod slurm-job-{ran.job_id}: ")
    assert ran.err.endswith("name a version, not latest\n")


# --- What may pass is waited for, and then the job goes on ----------------------------------------


def test_the_summary_tells_what_a_start_waited_for(summary, registry):
    with slow_registry(registry, 3) as address:
        found = summary(script(RUN, f"{address}/alpine:latest"))
    assert found["state"] == "COMPLETED"
    assert found["sandbox_start_s"] >= 3
    assert f"pulling image {address}/alpine:latest took " in "\n".join(found["sandbox_start"])


def test_a_slow_pull_is_told_and_then_how_long_it_took_and_how_large_it_is(cluster, job, registry):
    with slow_registry(registry, 3) as address:
        ran = job(script(RUN, f"{address}/alpine:latest"))
        told = goes_on(cluster, ran)
    first, last = told.splitlines()
    assert first == f"sbridge: pulling image {address}/alpine:latest"
    assert last.startswith(f"{first} took ")
    assert last.endswith(" MiB")


def test_a_registry_that_is_away_is_waited_for(cluster, job, registry):
    port = free_port()
    address = f"127.0.0.1:{port}"
    ran = job(script(RUN, f"{address}/alpine:latest"))
    ran.wait_to_say(f"sbridge: waiting for the registry of {address}/alpine:latest: ")
    assert "connection refused" in ran.err
    with slow_registry(registry, 0, port):
        goes_on(cluster, ran)


def test_a_registry_in_trouble_is_waited_for(cluster, job):
    with refusing_registry(503) as address:
        ran = job(script(RUN, f"{address}/x:1"))
        ran.wait_to_say(f"sbridge: waiting for the registry of {address}/x:1: ")
        assert "503 Service Unavailable" in ran.err


def test_a_cordoned_node_is_waited_for(cluster, job):
    cluster.kubernetes.kubectl("cordon", cluster.kubernetes_node)
    try:
        ran = job(script(RUN, ALPINE))
        ran.wait_to_say("sbridge: waiting for room on its Kubernetes node: ")
    finally:
        cluster.kubernetes.kubectl("uncordon", cluster.kubernetes_node)
    assert "(cordoned)" in goes_on(cluster, ran)


def test_a_quota_that_others_have_filled_is_waited_for(cluster, job, named):
    named("ResourceQuota", "one", spec={"hard": {"pods": "1"}})
    in_force(cluster, "one")
    first = job(script("echo ready; sleep 987\n", ALPINE)).wait_to_write()
    second = job(script(RUN, ALPINE))
    second.wait_to_say("sbridge: waiting for room in quota one of the namespace: requested pods=1")
    cluster.scancel(first.job_id)
    goes_on(cluster, second)


def test_a_namespace_that_is_not_prepared_is_waited_for(cluster, job):
    label = "pod-security.kubernetes.io/enforce"
    cluster.kubernetes.kubectl(
        "label", "--overwrite", "namespace", cluster.namespace, f"{label}=baseline"
    )
    try:
        ran = job(script(RUN, ALPINE))
        ran.wait_to_say("sbridge: the cluster is not prepared for pod ")
        assert "violates PodSecurity" in ran.err
    finally:
        cluster.kubernetes.kubectl(
            "label", "--overwrite", "namespace", cluster.namespace, f"{label}=privileged"
        )
    goes_on(cluster, ran)


def test_a_folder_that_the_node_lacks_for_now_is_waited_for(cluster, job):
    away = cluster.nas.with_name("nas-away")
    with cluster.frozen("kube-scheduler"):
        ran = job(script(RUN, ALPINE))
        cluster.wait_for(cluster.pods)
        cluster.nas.rename(away)
    try:
        ran.wait_to_say("sbridge: waiting for a folder to be mounted: ")
    finally:
        away.rename(cluster.nas)
    told = goes_on(cluster, ran)
    assert f"{cluster.nas}: No such file or directory" in told


def test_an_api_that_goes_while_the_image_is_pulled_is_waited_for(cluster, job, registry):
    port = free_port()
    image = f"127.0.0.1:{port}/alpine:latest"
    ran = job(script(RUN, image))
    ran.wait_to_say("waiting for the registry")
    with cluster.dead("kube-apiserver"):
        ran.wait_to_say("sbridge: waiting for the Kubernetes API: ")
    with slow_registry(registry, 0, port):
        goes_on(cluster, ran)


# --- Nobody's fault for too long: the job is requeued ---------------------------------------------


@pytest.fixture(scope="module")
def impatient(slurm_on_kubernetes):
    """Have no job wait for long."""
    with slurm_on_kubernetes.settings(f"agent.sandbox_start_timeout_s={PATIENCE_S}"):
        yield


@pytest.fixture
def away():
    """Give an image of a registry that nobody answers for."""
    return f"127.0.0.1:{free_port()}/away:1"


def assert_requeued(cluster, ran, *reason):
    restarts = functools.partial(cluster.job_field, ran.job_id, "Restarts")
    cluster.wait_for(lambda: restarts() == "1", what=f"a second run; {ran.err!r}")
    cluster.wait_job(ran.job_id, "PENDING")
    told = [line for line in ran.err.splitlines() if "asking Slurm to requeue the job" in line]
    assert len(told) == 1
    for text in reason:
        assert text in told[0]


def runs_at_last(cluster, ran):
    """Its second run comes as far as its end, once what it waits for is back."""
    cluster.start_requeued(ran.job_id)
    assert ran.wait() == "COMPLETED", ran.err
    assert ran.out == "ran\n"


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_stays_away_has_the_job_requeued(cluster, job, away):
    ran = job(script(RUN, away))
    assert_requeued(cluster, ran, f"sbridge: waiting for the registry of {away}: ", "(waited ")
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_the_summary_of_a_run_that_was_requeued_says_so(cluster, summary, away):
    found = summary(script(RUN, away))
    assert found["state"] == "REQUEUED"
    assert found["reason"].startswith(f"waiting for the registry of {away}: ")
    why, _, what = found["reason"].rpartition("; ")
    assert what == "the job was requeued"
    assert f"{why}; asking Slurm to requeue the job" in found["stderr"]
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_a_job_that_may_not_be_requeued_fails_with_the_reason(cluster, job, away):
    ran = job(script(RUN, away), "--no-requeue")
    assert ran.end == ("FAILED", "1:0")
    assert f"waiting for the registry of {away}: " in ran.err.splitlines()[-1]
    assert ran.err.endswith("; the job may not be requeued, so it fails\n")
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_is_silent_has_the_job_requeued(cluster, job):
    with silent_registry() as registry:
        ran = job(script(RUN, f"{registry}/x:1"))
        assert_requeued(cluster, ran, f"pulling image {registry}/x:1 (waited ")
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_a_node_that_stays_cordoned_has_the_job_requeued(cluster, job):
    cluster.kubernetes.kubectl("cordon", cluster.kubernetes_node)
    try:
        ran = job(script(RUN, ALPINE))
        assert_requeued(cluster, ran, "waiting for room on its Kubernetes node", "cordoned")
    finally:
        cluster.kubernetes.kubectl("uncordon", cluster.kubernetes_node)
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_a_kubelet_that_is_silent_in_the_end_only_drains_no_node(cluster, job):
    cluster.kubernetes.kubectl("cordon", cluster.kubernetes_node)
    try:
        ran = job(script(RUN, ALPINE))
        ran.wait_to_say("(cordoned)")
        cluster.wait_for(lambda: waited(cluster, ran) > 0.7 * PATIENCE_S)
    finally:
        with cluster.frozen("kubelet-{node}"):
            cluster.kubernetes.kubectl("uncordon", cluster.kubernetes_node)
            assert_requeued(cluster, ran, "waiting for the kubelet")
    assert cluster.drained_nodes() == {}


def waited(cluster, ran):
    """Return for how many seconds a job has been running, for Slurm."""
    hours, minutes, seconds = cluster.job_field(ran.job_id, "RunTime").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds)


# --- The node's fault: it is drained, and the job requeued ----------------------------------------


@contextlib.contextmanager
def draining(cluster, ran, reason):
    """Have the node of a job drained while the block's fault lasts, and the job then run."""
    cluster.wait_for(cluster.drained_nodes, what=lambda: f"a drained node; {ran.err!r}")
    ((_, told),) = cluster.drained_nodes().items()
    assert told.startswith(f"sbridge: {reason}")
    assert_requeued(cluster, ran, "cannot run it", reason)
    yield
    cluster.wait_for(lambda: cluster.drained_nodes() == {}, what="the node resumed")
    runs_at_last(cluster, ran)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "daemon", "reason"),
    [
        ("dead", "kubelet", "waiting for the kubelet of Kubernetes node {node} for "),
        ("dead", "containerd", "waiting for the "),
        ("frozen", "containerd", "waiting for the "),
    ],
)
def test_a_daemon_that_is_away_drains_its_node(cluster, job, fault, daemon, reason):
    with contextlib.ExitStack() as lasting:
        lasting.enter_context(getattr(cluster, fault)(f"{daemon}-{{node}}"))
        ran = job(script(RUN, ALPINE), f"--nodelist={cluster.nodes[0]}")
        with draining(cluster, ran, reason.format(node=cluster.kubernetes_node)):
            lasting.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("words", ["no space left on device", "connection refused"])
def test_an_image_whose_own_words_are_of_a_broken_node_drains_none(cluster, job, registry, words):
    image = "liar-" + words.replace(" ", "-")
    push(registry, image, {"a-file": b""}, volumes=[f"/a-file/{words}"])
    ran = job(script(RUN, f"{IMAGES}/{image}"), "--no-requeue")
    assert ran.wait() == "FAILED"
    assert words in ran.err
    assert "cannot run it" not in ran.err
    assert cluster.drained_nodes() == {}


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_says_it_is_the_nodes_disk_drains_no_node(cluster, job):
    with refusing_registry(500, "no space left on device") as address:
        ran = job(script(RUN, f"{address}/x:1"), "--no-requeue")
        assert ran.wait() == "FAILED"
    assert "no space left on device" in ran.err
    assert "cannot run it" not in ran.err
    assert cluster.drained_nodes() == {}


def test_a_full_disk_that_takes_no_image_drains_the_node(cluster, job, registry):
    push(registry, "large", {"data": bytes(range(256)) * 999})
    folder = cluster.kubernetes.state / cluster.kubernetes_node
    (place,) = folder.glob("containerd/*content.v1*/ingest")
    full = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "none", str(place)]
    with contextlib.ExitStack() as fault:
        subprocess.run(full, check=True)
        fault.callback(subprocess.run, ["umount", str(place)], check=True)
        ran = job(script(RUN, f"{IMAGES}/large"), "--no-requeue", f"--nodelist={cluster.nodes[0]}")
        cluster.wait_for(cluster.drained_nodes, what=lambda: f"a drained node; {ran.err!r}")
        ((node, told),) = cluster.drained_nodes().items()
        assert told.startswith(f"sbridge: image {IMAGES}/large cannot be stored: ")
        assert told.endswith("no space left on device")
        assert ran.end == ("FAILED", "1:0")
        last = ran.err.splitlines()[-1]
        assert last.startswith(f"sbridge: node {node} cannot run it (image {IMAGES}/large cannot")
        assert last.endswith("; the job may not be requeued, so it fails")
    cluster.wait_for(lambda: cluster.drained_nodes() == {}, what="the node resumed")


# --- Last, because the scheduler is long in coming back -------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_an_api_that_stays_away_has_the_job_requeued(cluster, job):
    with cluster.dead("kube-apiserver"):
        ran = job(script(RUN, ALPINE))
        assert_requeued(cluster, ran, "sbridge: waiting for the Kubernetes API: ")
        assert cluster.drained_nodes() == {}
