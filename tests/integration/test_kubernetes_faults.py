"""Whoever ends a sandbox ends its job and the user reads why; whatever else dies ends no job."""

import contextlib
import json
import os
import signal
import time

import pytest

from tests.integration.slurm_on_kubernetes import ALPINE, ON_PODS
from tests.integration.submitted_job import Held, script

pytestmark = [*ON_PODS, pytest.mark.usefixtures("clean_afterwards")]

OUTAGE_S = 20
SLEEP = "sleep 4711"


# --- The end of a sandbox -------------------------------------------------------------------------


@pytest.fixture
def dropped(cluster):
    """Drop a job for the NAS folder, and wait until it runs; returns its id."""

    def dropped(body):
        name = f"fault-{time.time_ns()}.sh"
        cluster.drop("alice", name, script(body, ALPINE))
        cluster.wait_for(lambda: list(cluster.processed.glob(f"*_{name}")))
        job_id = int(next(cluster.processed.glob(f"*_{name}")).name.split("_")[0])
        log = cluster.results / str(job_id) / "stdout.log"
        cluster.wait_for(lambda: log.exists() and "ready" in log.read_text())
        return job_id

    return dropped


@contextlib.contextmanager
def deleted(cluster, job_id, *options):
    name = cluster.pod(job_id)["metadata"]["name"]
    cluster.kubectl("delete", "pod", name, *options)
    yield


def deleted_by_force(cluster, job_id):
    return deleted(cluster, job_id, "--force", "--grace-period=0")


@contextlib.contextmanager
def evicted(cluster, job_id):
    name = cluster.pod(job_id)["metadata"]["name"]
    wanted = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"
    cluster.kubectl("create", f"--raw={path}", "--filename=-", input=json.dumps(wanted))
    yield


def tainted(cluster, job_id):
    return cluster.tainted("broken=yes:NoExecute")


@contextlib.contextmanager
def killed(cluster, job_id):
    os.kill(cluster.first_process(job_id), signal.SIGKILL)
    yield


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (deleted, "its pod was deleted"),
        (deleted_by_force, "its pod was deleted"),
        (evicted, "its pod was deleted (EvictionByEvictionAPI: Eviction API: evicting)"),
        (tainted, "its pod was deleted (DeletionByTaintManager: Taint manager: deleting"),
        (killed, "its first process ended (Error, exit code 137)"),
    ],
)
def test_whoever_ends_a_sandbox_ends_its_job_and_the_user_reads_why(cluster, dropped, ended, why):
    job_id = dropped(f"{SLEEP} & echo ready; wait\n")
    assert len(cluster.processes(SLEEP.replace(" ", "\0"))) == 1
    with ended(cluster, job_id):
        assert cluster.wait_job(job_id) == "FAILED"
    assert cluster.job_field(job_id, "ExitCode") == "0:9"
    assert cluster.processes(SLEEP.replace(" ", "\0")) == []
    folder = cluster.results / str(job_id)
    cluster.wait_for((folder / "job_summary.json").exists)
    summary = json.loads((folder / "job_summary.json").read_text())
    assert (summary["state"], summary["exit_code"], summary["signal"]) == ("FAILED", 0, 9)
    (warning,) = summary["warnings"]
    assert warning.startswith(f"its sandbox ended before the job: {why}")
    last = (folder / "stderr.log").read_text().splitlines()[-1]
    assert f"the sandbox of this job ended, and everything in it: {why}" in last


# --- The death of the node's own daemons ----------------------------------------------------------

KUBELET, CONTAINERD = "kubelet-{node}", "containerd-{node}"


@pytest.mark.parametrize("daemons", [[KUBELET], [CONTAINERD], [KUBELET, CONTAINERD]])
def test_jobs_outlive_kubelet_and_containerd_and_free_the_node_without_them(cluster, held, daemons):
    first, second = (held(ALPINE, f"--nodelist={node}") for node in cluster.nodes)
    first.wait_to_run()
    second.wait_to_run()
    uid = cluster.pod(second.ran.job_id)["metadata"]["uid"]
    with cluster.dead(*daemons):
        assert first.let_go() == Held.WENT_ON
        cluster.wait_for_idle(cluster.nodes[0])
        assert [pod["metadata"]["uid"] for pod in cluster.pods()] == [uid]
    assert cluster.pod(second.ran.job_id)["metadata"]["uid"] == uid
    assert second.let_go() == Held.WENT_ON
    assert (first.ran.own_err, second.ran.own_err) == ("", "")


def test_a_sandbox_that_was_being_started_when_containerd_died_starts_later(cluster, job):
    with cluster.dead(), cluster.frozen(CONTAINERD):
        ran = job(script("echo hi\n", ALPINE))
        ran.wait_to_say("sbridge: ")  # which of its words depends on how far the kubelet is
        cluster.kubernetes.kill(CONTAINERD.format(node=cluster.kubernetes_node))
    assert ran.end == ("COMPLETED", "0:0")
    assert ran.out == "hi\n"


@pytest.mark.parametrize("daemon", [KUBELET, CONTAINERD])
def test_a_job_that_finds_no_kubelet_or_containerd_waits_for_it(cluster, job, daemon):
    with cluster.dead(daemon):
        ran = job(script("echo hi\n", ALPINE))
        ran.wait_to_say("waiting for the")
    assert ran.end == ("COMPLETED", "0:0")
    assert ran.out == "hi\n"


# --- The death of the control plane ---------------------------------------------------------------


@pytest.mark.parametrize(("daemon", "outage_s"), [("kube-apiserver", OUTAGE_S), ("etcd", 0)])
def test_an_outage_of_the_api_loses_no_job_and_no_node(cluster, held, job, daemon, outage_s):
    first, second = (held(ALPINE, f"--nodelist={node}") for node in cluster.nodes)
    first.wait_to_run()
    second.wait_to_run()
    uid = cluster.pod(second.ran.job_id)["metadata"]["uid"]
    until = time.monotonic() + outage_s
    with cluster.dead(daemon):
        assert first.let_go() == Held.WENT_ON
        cluster.wait_for_idle(cluster.nodes[0])
        new = job(script("echo hi\n", ALPINE))
        new.wait_to_say("the Kubernetes API", timeout=60)
        cluster.wait_for(lambda: time.monotonic() > until)
        assert cluster.job_state(new.job_id) == "RUNNING"
    # Kubelet and scheduler ask a dead API server ever less often.
    new.wait(timeout=180)
    assert new.end == ("COMPLETED", "0:0")
    assert cluster.pod(second.ran.job_id)["metadata"]["uid"] == uid
    assert second.let_go() == Held.WENT_ON
    assert (first.ran.own_err, second.ran.own_err) == ("", "")


@pytest.mark.parametrize("daemon", ["kube-scheduler", "kube-controller-manager"])
def test_a_job_outlives_the_rest_of_the_control_plane(cluster, held, daemon):
    ran = held(ALPINE).wait_to_run()
    with cluster.dead(daemon):
        assert ran.let_go() == Held.WENT_ON
