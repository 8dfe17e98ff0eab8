"""Agents that die, and what is compared when they are back: records, pods and Slurm's jobs."""

import os
import signal

import pytest

from tests.integration.slurm_on_kubernetes import ALPINE
from tests.integration.submitted_job import Held, script

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.kubernetes,
    pytest.mark.usefixtures("clean_afterwards"),
]

INTERVAL_S = 2
UNKNOWN = 987654  # a job that Slurm does not know


@pytest.fixture(scope="module")
def often(slurm_on_kubernetes):
    """Have the agents compare often."""
    with slurm_on_kubernetes.settings(f"agent.reconcile_interval_s={INTERVAL_S}"):
        yield slurm_on_kubernetes


@pytest.fixture
def cluster(often):
    return often


@pytest.fixture(autouse=True)
def _agents_are_back(cluster, clean_afterwards):
    yield
    cluster.up()


def wait_until_gone(cluster, pod):
    """Wait until a pod is removed: by whoever compared, as nobody else does it."""
    cluster.wait_for(lambda: pod not in cluster.sandboxes(), what=f"{pod} is gone")


# --- Agents that die ------------------------------------------------------------------------------


def test_an_agent_that_died_while_it_made_a_sandbox_makes_it(cluster, job):
    cluster.kubernetes.kubectl("cordon", cluster.kubernetes_node)
    try:
        ran = job(script("echo hi\n", ALPINE))
        ran.wait_to_say("were unschedulable")
        cluster.kill_agents()
        ran.wait_to_say("the sbridge agent of this node went away")
        cluster.start_agents()
    finally:
        cluster.kubernetes.kubectl("uncordon", cluster.kubernetes_node)
    assert ran.end == ("COMPLETED", "0:0")
    assert ran.out == "hi\n"


def test_a_running_job_keeps_its_pod_when_its_agent_is_back_and_compares(cluster, held):
    ran = held(ALPINE, f"--nodelist={cluster.nodes[0]}").wait_to_run()
    uid = cluster.pod(ran.ran.job_id)["metadata"]["uid"]
    cluster.kill_agents()
    orphan = cluster.create_pod(cluster.nodes[0], UNKNOWN)
    cluster.start_agents()
    wait_until_gone(cluster, orphan)
    cluster.wait_to_tell(cluster.nodes[0], "reconciled")
    pod = cluster.pod(ran.ran.job_id)["metadata"]
    assert (pod["uid"], pod.get("deletionTimestamp")) == (uid, None)
    assert ran.let_go() == Held.WENT_ON
    assert ran.ran.own_err == ""


def test_a_pod_whose_removal_was_cut_short_is_removed_by_the_next_agent(cluster, held):
    ran = held(ALPINE).wait_to_run()
    with cluster.frozen("kube-apiserver"):
        assert ran.let_go() == Held.WENT_ON
        cluster.wait_for(lambda: not cluster.pod_processes())
        cluster.kill_agents()
    assert len(cluster.sandboxes()) == 1
    cluster.start_agents()
    cluster.wait_until_clean()


def test_a_pod_that_an_outage_outlived_its_agent_is_removed_by_the_next(cluster, held):
    ran = held(ALPINE, f"--nodelist={cluster.nodes[0]}").wait_to_run()
    with cluster.dead("kube-apiserver"):
        assert ran.let_go() == Held.WENT_ON
        cluster.wait_for_idle(cluster.nodes[0])
        cluster.kill_agents()
    assert len(cluster.sandboxes()) == 1
    cluster.start_agents()
    cluster.wait_until_clean()


def test_a_record_whose_pod_and_job_went_while_the_agent_was_dead_is_closed(cluster, held):
    ran = held(ALPINE).wait_to_run()
    cluster.kill_agents()
    cluster.kubectl("delete", "pod", f"slurm-job-{ran.ran.job_id}", "--force", "--grace-period=0")
    assert ran.ran.end == ("FAILED", "0:9")
    assert ran.ran.own_err == (
        "sbridge: the sandbox of this job ended, and everything in it: nobody tells why\n"
    )
    cluster.wait_for(cluster.drained_nodes)  # the Epilog found no agent
    cluster.start_agents()
    cluster.wait_for(lambda: cluster.drained_nodes() == {})
    cluster.wait_until_clean()


# --- What has no job ------------------------------------------------------------------------------


def test_an_orphan_stays_while_slurm_cannot_be_asked(cluster):
    node = cluster.nodes[0]
    cluster.kill("slurmctld")
    orphan = cluster.create_pod(node, UNKNOWN)
    cluster.wait_to_tell(node, "reconcile_delayed", times=2)
    assert cluster.sandboxes() == [orphan]
    cluster.up()
    wait_until_gone(cluster, orphan)


def test_nothing_is_taken_for_gone_while_the_api_is_away(cluster, held):
    node = cluster.nodes[0]
    ran = held(ALPINE, f"--nodelist={node}").wait_to_run()
    uid = cluster.pod(ran.ran.job_id)["metadata"]["uid"]
    with cluster.dead("kube-apiserver"):
        cluster.wait_to_tell(node, "reconcile_delayed", times=2)
    cluster.wait_to_tell(node, "reconciled")
    assert cluster.pod(ran.ran.job_id)["metadata"]["uid"] == uid
    assert ran.let_go() == Held.WENT_ON
    assert ran.ran.own_err == ""


def test_what_a_dead_nodes_agent_left_is_removed_by_another_once_its_job_is_over(cluster, held):
    dead, living = cluster.nodes
    ran = held(ALPINE, f"--nodelist={dead}").wait_to_run()
    cluster.kill(f"agent-{dead}")
    orphan = cluster.create_pod(dead, UNKNOWN)
    trial = cluster.create_pod(dead, UNKNOWN + 1, **{"sbridge/short-lived": "a-trial"})
    wait_until_gone(cluster, orphan)
    cluster.wait_to_tell(living, "reconciled", times=2)
    left = {pod["metadata"]["name"]: pod["metadata"] for pod in cluster.pods()}
    assert set(left) == {f"slurm-job-{ran.ran.job_id}", trial}
    assert not any(pod.get("deletionTimestamp") for pod in left.values())
    cluster.kubectl("delete", "pod", trial, "--force", "--grace-period=0")
    cluster.start_agents()
    assert ran.let_go() == Held.WENT_ON


def test_what_jobs_may_not_have_any_more_is_ended_and_removed_all_the_same(cluster, held):
    node = cluster.nodes[0]
    ran = held(ALPINE, f"--nodelist={node}").wait_to_run()
    often = f"agent.reconcile_interval_s={INTERVAL_S}"
    cluster.up_with(often, 'agent.runtime="podman"', 'agent.allowed_runtimes=["podman"]')
    try:
        orphan = cluster.create_pod(node, UNKNOWN)
        wait_until_gone(cluster, orphan)
        assert cluster.sandboxes() == [f"slurm-job-{ran.ran.job_id}"]
        assert ran.let_go() == Held.WENT_ON
        cluster.wait_until_clean()
    finally:
        cluster.up_with(often)


# --- Changes that no watch saw --------------------------------------------------------------------


def test_a_pod_that_went_while_the_watch_was_broken_is_missed_by_the_next_list(cluster, held):
    """The API server begins its history anew when it starts: the agent's version is too old."""
    node = cluster.nodes[0]
    ran = held(ALPINE, f"--nodelist={node}").wait_to_run()
    agent = cluster.told(node, "agent_started")[-1]["pid"]
    os.kill(agent, signal.SIGSTOP)
    try:
        with cluster.dead("kube-apiserver"):
            pass
        cluster.kubectl("delete", "pod", f"slurm-job-{ran.ran.job_id}", "--wait=false")
        expired = len(cluster.told(node, "pod_watch_expired"))
        cluster.wait_for(lambda: not cluster.sandboxes())
    finally:
        os.kill(agent, signal.SIGCONT)
    assert ran.ran.end == ("FAILED", "0:9")
    cluster.wait_for(lambda: len(cluster.told(node, "pod_watch_expired")) > expired)
    cluster.wait_for(lambda: cluster.told(node, "sandbox_lost"))
