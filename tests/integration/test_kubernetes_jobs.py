"""A job in a pod is a Slurm job: what users, Slurm and Kubernetes see of it."""

import json
import pwd
import re
import subprocess
from urllib.parse import quote

import pytest

from tests.integration.bad_registry import silent_registry
from tests.integration.slurm_on_kubernetes import ALPINE, BASH, ON_PODS, STATIC
from tests.integration.submitted_job import script

pytestmark = [*ON_PODS, pytest.mark.usefixtures("clean_afterwards")]

SLEEP = "sleep 9871"  # no other test looks for it


@pytest.fixture
def running(job):
    """Submit a script that writes `ready` and sleeps, and wait until it does."""

    def running(image=ALPINE, *options, before="", **keywords):
        body = f"{before}echo ready; {SLEEP}\n"
        return job(script(body, image), *options, **keywords).wait_to_write()

    return running


# --- The users' first example ---------------------------------------------------------------------

FIRST = """#!/bin/bash
#SBATCH --mem=100
#K8S_IMAGE=nas-hub.local:5407/alpine:latest
echo "job $SLURM_JOB_ID in $(cat /etc/os-release 2>/dev/null | wc -l) lines of alpine"
echo ready
while [ ! -e "$SBRIDGE_OUTPUTS/go" ]; do sleep 0.1; done
echo result > "$SBRIDGE_OUTPUTS/result"
echo done
exit 3
"""


def test_tasks_of_srun_enter_the_pods_of_their_nodes(cluster, job):
    body = (
        "srun --ntasks-per-node=1 sh -c 'echo $SLURMD_NODENAME; test -e /bin/busybox' | sort\n"
        "sh -lc 'srun -n1 -N1 -J in-a-login-shell true'; squeue -h -j $SLURM_JOB_ID -o %D\n"
    )
    submitted = job(script(body, ALPINE), "-N2")
    assert submitted.end == ("COMPLETED", "0:0"), submitted.err
    assert submitted.out.splitlines() == [*cluster.nodes, "2"]


def test_the_first_example_dropped_on_the_nas_is_a_pod_and_comes_back(cluster):
    cluster.drop("alice", "first.sh", FIRST)
    cluster.wait_for(lambda: list(cluster.processed.glob("*_first.sh")))
    job_id = int(next(cluster.processed.glob("*_first.sh")).name.split("_")[0])
    folder = cluster.results / str(job_id)
    log = folder / "stdout.log"
    cluster.wait_for(lambda: log.exists() and "ready" in log.read_text())

    by_app = cluster.kubectl("get", "pods", "-l", "app=slurm-job", "-o", "name")
    assert by_app.split() == [f"pod/slurm-job-{job_id}"]
    assert cluster.kubectl("get", "pods", "-l", f"job-id={job_id}", "-o", "name") == by_app
    (out,) = cluster.spool.glob(f"*/jobs/{job_id}.0/out/outputs")
    cluster.as_user("alice", ["touch", str(out / "go")])

    cluster.wait_for((folder / "job_summary.json").exists)
    summary = json.loads((folder / "job_summary.json").read_text())
    assert (summary["state"], summary["exit_code"]) == ("FAILED", 3)
    assert (summary["runtime"], summary["sandbox"]) == ("kubernetes", f"slurm-job-{job_id}")
    assert summary["warnings"] == ["the image has no /bin/bash; using /bin/sh instead"]
    assert log.read_text().endswith("ready\ndone\n")
    assert (folder / "outputs/result").read_text() == "result\n"
    checksums = ["sha256sum", "--check", "--quiet", "checksums.txt"]
    subprocess.run(checksums, cwd=folder, check=True)


def test_the_first_example_by_sbatch_says_what_it_uses_for_bash(job):
    body = FIRST.replace("while", "exit 3; while")
    ran = job(body)
    assert ran.end == ("FAILED", "3:0")
    assert ran.err == "sbridge: the image has no /bin/bash; using /bin/sh instead\n"


# --- What kubectl shows ---------------------------------------------------------------------------


def test_labels_and_events_tell_the_story_of_the_job(cluster, running):
    ran = running()
    pod = cluster.pod(ran.job_id)
    node = cluster.job_field(ran.job_id, "BatchHost")
    name = f"slurm-job-{ran.job_id}"
    assert pod["metadata"]["labels"] == {
        "app": "slurm-job",
        "job-id": str(ran.job_id),
        "sbridge/restart": "0",
        "sbridge/node": node,
        "sbridge/user": "alice",
        "sbridge/account": "lab",
        "sbridge/partition": "main",
        "app.kubernetes.io/name": "slurm-job",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "sandbox",
        "app.kubernetes.io/part-of": "sbridge",
        "app.kubernetes.io/managed-by": "sbridge",
    }
    cluster.wait_for(lambda: "SandboxReady" in cluster.events(name))
    assert f"Slurm job {ran.job_id} of alice" in cluster.kubectl("describe", "pod", name)
    cluster.scancel(ran.job_id)
    cluster.wait_for(lambda: "SandboxRemoved" in cluster.events(name))


def test_the_pod_has_what_slurm_gave_and_no_privilege(cluster, running):
    ran = running(before="id; ")
    spec = cluster.pod(ran.job_id)["spec"]
    (container,) = spec["containers"]
    assert container["resources"] == {
        "limits": {"cpu": "1", "memory": "100Mi"},
        "requests": {"cpu": "1", "memory": "100Mi"},
    }
    alice = pwd.getpwnam("alice")
    security = spec["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (alice.pw_uid, alice.pw_gid)
    groups = set(map(int, re.findall(r"\d+", ran.out.partition("groups=")[2])))
    assert set(security["supplementalGroups"]) == groups
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    assert not spec["enableServiceLinks"]
    assert [volume for volume in spec["volumes"] if "hostPath" not in volume] == []
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_inside_there_are_the_user_his_groups_and_nothing_of_the_cluster(job):
    body = """id -un; id -Gn; whoami
ls -d /var/run/secrets/kubernetes.io 2>/dev/null
env | grep KUBERNETES
grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status
"""
    ran = job(script(body, ALPINE))
    ran.wait()
    name, groups, user, *rest = ran.out.splitlines()
    assert (name, user) == ("alice", "alice")
    assert "research" in groups.split()
    assert rest == ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]


# --- Streams, ends and signals --------------------------------------------------------------------


def test_streams_and_exit_code_are_the_native_ones(job):
    body = "printf 'out\\0$$(NAME)\\n'; echo err >&2; exit 5\n"
    native, sandboxed = job(script(body)), job(script(body, ALPINE))
    assert sandboxed.end == native.end == ("FAILED", "5:0")
    assert sandboxed.out == native.out
    assert sandboxed.err == native.err == "err\n"


@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1"])
def test_death_by_a_signal_is_the_native_one(job, name):
    native, sandboxed = (job(script(f"kill -{name} $$\n", image)) for image in ("", BASH))
    assert sandboxed.end == native.end


TRAPPED = "trap 'echo shell USR1; exit 9' USR1; echo ready; while :; do sleep 0.1; done\n"


def test_a_signal_for_the_batch_shell_reaches_it(cluster, job):
    ran = job(script(TRAPPED, ALPINE)).wait_to_write()
    cluster.scancel(ran.job_id, "--batch", "--signal=USR1")
    assert ran.end == ("FAILED", "9:0")
    assert ran.out == "ready\nshell USR1\n"


def test_an_image_without_a_shell_fails_with_the_reason(job):
    ran = job(script("echo hi\n", STATIC, interpreter="/bin/bash"))
    assert ran.end == ("FAILED", "2:0")
    assert "the image has no /bin/bash and no /bin/sh" in ran.err


def test_too_much_memory_is_slurms_out_of_memory(job):
    assert job(script("tail /dev/zero\n", ALPINE)).wait() == "OUT_OF_MEMORY"


def test_a_job_of_root_runs_in_no_pod_and_says_so(job):
    ran = job(script("id\n", ALPINE), user="root")
    assert ran.end == ("FAILED", "1:0")
    assert ran.err == "sbridge: jobs of root run in no pod; submit as an ordinary user\n"


# --- scancel in each phase ------------------------------------------------------------------------


def test_scancel_of_a_job_that_waits_for_a_node_makes_no_pod(cluster, job, running):
    held = [running() for _ in cluster.nodes]
    waiting = job(script("true\n", ALPINE))
    cluster.wait_job(waiting.job_id, "PENDING")
    cluster.scancel(waiting.job_id)
    assert waiting.wait() == "CANCELLED"
    assert len(cluster.sandboxes()) == len(held)


def test_scancel_of_a_pod_that_waits_for_room_frees_the_node(cluster, job):
    cluster.kubernetes.kubectl("cordon", cluster.kubernetes_node)
    try:
        waiting = job(script("true\n", ALPINE))
        waiting.wait_to_say("were unschedulable")
        cluster.scancel(waiting.job_id)
        assert waiting.wait() == "CANCELLED"
    finally:
        cluster.kubernetes.kubectl("uncordon", cluster.kubernetes_node)


def test_scancel_while_the_image_is_pulled_frees_the_node(cluster, job):
    with silent_registry() as registry:
        waiting = job(script("true\n", f"{registry}/x:1"))
        waiting.wait_to_say(f"pulling image {registry}/x:1")
        cluster.scancel(waiting.job_id)
        assert waiting.wait() == "CANCELLED"


def test_scancel_while_the_sandbox_is_started_leaves_no_process(cluster, job):
    with cluster.frozen("containerd-{node}"):
        waiting = job(script("true\n", ALPINE))
        # The kubelet hangs with it at once, or when it is about to make the pod.
        waiting.wait_to_say(f" of Kubernetes node {cluster.kubernetes_node}")
        cluster.scancel(waiting.job_id)
        assert waiting.wait() == "CANCELLED"
    cluster.wait_for(lambda: not cluster.pod_processes())


def test_scancel_of_a_running_job_ends_every_process(cluster, job):
    ran = job(script(f"{SLEEP} & echo ready; wait\n", ALPINE)).wait_to_write()
    cluster.scancel(ran.job_id)
    assert ran.wait() == "CANCELLED"
    assert "CANCELLED AT" in ran.err
    assert cluster.processes(SLEEP.replace(" ", "\0")) == []


# --- Other users, other runs, other nodes ---------------------------------------------------------


def test_a_stranger_can_not_enter_anothers_sandbox(cluster, running):
    ran = running()
    running(user="bob")
    node = cluster.job_field(ran.job_id, "BatchHost")
    enter = [f"SLURM_JOB_ID={ran.job_id}", f"SLURMD_NODENAME={node}", "sbridge-run", "/bin/sh"]
    refused = cluster.run_as("bob", ["env", *enter, "-c", "id"])
    assert refused.returncode == 1
    assert "is not yours" in refused.stderr


def test_a_requeued_job_gets_a_pod_of_another_name(cluster, job):
    body = f"echo run $SLURM_RESTART_COUNT; {SLEEP}\n"
    ran = job(script(body, ALPINE), "--open-mode=append", "--requeue").wait_to_write("run")
    first = cluster.sandboxes()
    cluster.scontrol("requeue", str(ran.job_id))
    cluster.start_requeued(ran.job_id)
    ran.wait_to_write("run 1")
    assert (first, cluster.sandboxes()) == (
        [f"slurm-job-{ran.job_id}"],
        [f"slurm-job-{ran.job_id}-r1"],
    )


def test_a_job_on_two_nodes_has_two_pods(cluster, job):
    ran = job(script(f"echo ready; {SLEEP}\n", ALPINE), "--nodes=2").wait_to_write()
    names = [f"slurm-job-{ran.job_id}-{node}" for node in cluster.nodes]
    cluster.wait_for(lambda: sorted(cluster.sandboxes()) == names)
    pods = cluster.pods(f"job-id={ran.job_id}")
    assert {pod["spec"]["nodeName"] for pod in pods} == {cluster.kubernetes_node}
    assert sorted(pod["metadata"]["labels"]["sbridge/node"] for pod in pods) == cluster.nodes
    assert [pod["metadata"]["annotations"]["sbridge/user"] for pod in pods] == ["alice"] * 2


def test_each_task_of_srun_enters_the_sandbox_of_its_own_node(cluster):
    request = f"sbridge1?image={quote(ALPINE, safe='')}"
    command = "echo $(readlink /proc/self/ns/mnt) $SLURMD_NODENAME $(hostname)"
    srun = ["srun", "--nodes=2", "--mem=100", f"--comment={request}", "sbridge-run", "/bin/sh"]
    lines = cluster.as_user("alice", [*srun, "-c", command]).splitlines()
    mounts, nodes, _ = zip(*(line.split() for line in lines), strict=True)
    assert sorted(nodes) == cluster.nodes
    assert len(set(mounts)) == 2


def test_a_node_that_makes_no_pod_fails_the_whole_job_and_is_named(cluster, job, replace_agent):
    second = cluster.nodes[1]
    replace_agent(second, ("[sandbox]\n", '[sandbox]\nallowed_images = ["other/*"]\n'))
    ran = job(script("echo ran\n", ALPINE), "--nodes=2")
    assert ran.end == ("FAILED", "1:0")
    assert ran.out == ""
    assert f"sbridge: node {second}: image {ALPINE} is not allowed here" in ran.err
    replace_agent(second)
    ran = job(script("echo ran\n", ALPINE), "--nodes=2")
    assert ran.end == ("COMPLETED", "0:0")


# --- Without cgroups of Slurm's -------------------------------------------------------------------


@pytest.fixture(scope="module")
def linuxproc(slurm_on_kubernetes):
    """Have Slurm follow processes by their parents only."""
    slurm_on_kubernetes.up(proctrack="linuxproc")
    yield
    slurm_on_kubernetes.up(proctrack="cgroup")


@pytest.mark.usefixtures("linuxproc")
def test_without_slurms_cgroups_a_step_is_in_that_of_its_pod(cluster, running):
    ran = running(before="cat /proc/self/cgroup; ")
    uid = cluster.pod(ran.job_id)["metadata"]["uid"]
    assert f"/pod{uid}/" in ran.out


@pytest.mark.usefixtures("linuxproc")
def test_without_slurms_cgroups_the_pods_memory_limit_holds(job):
    ran = job(script("tail /dev/zero; echo $?\n", ALPINE))
    ran.wait()
    assert ran.out in ("137\n", "")  # the kernel chose the program, or the shell with it


@pytest.mark.usefixtures("linuxproc")
def test_without_slurms_cgroups_scancel_ends_every_process(cluster, job):
    ran = job(script(f"{SLEEP} & echo ready; wait\n", ALPINE)).wait_to_write()
    cluster.scancel(ran.job_id)
    assert ran.wait() == "CANCELLED"
    cluster.wait_for(lambda: cluster.processes(SLEEP.replace(" ", "\0")) == [])


@pytest.mark.usefixtures("linuxproc")
def test_without_slurms_cgroups_a_deleted_pod_ends_the_job_and_says_why(cluster, running):
    ran = running()
    cluster.kubectl("delete", "pod", f"slurm-job-{ran.job_id}")
    assert ran.end == ("FAILED", "0:9")
    assert "ended, and everything in it: its pod was deleted" in ran.err
