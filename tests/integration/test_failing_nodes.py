"""A node that fails under a job: the job ends or goes on as natively, and nothing is left."""

import re

import pytest

from tests.integration.fidelity.observed import in_words
from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "localhost/sbridge-demo:latest"
SIDES = {"native": "", "sandboxed": DEMO}
SLEEP = "sleep 98761"


@pytest.fixture
def node(cluster):
    return cluster.nodes[0]


@pytest.fixture(autouse=True)
def _leaves_nothing(cluster):
    yield
    cluster.up()
    for name in cluster.nodes:
        cluster.run_as("root", ["scontrol", "update", f"NodeName={name}", "State=RESUME"])
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_until_nothing_is_left(60)
    cluster.wait_for(lambda: cluster.slurm("sinfo", "-h", "-N", "-p", "main", "-t", "idle"))


def records(cluster, job_id):
    """Return how each run of a job and its steps ended, by accounting."""

    def rows():
        sacct = ("sacct", "-n", "-P", "-D", "-j", str(job_id), "-o", "JobID,State,ExitCode,End")
        return [row.split("|") for row in cluster.slurm(*sacct).splitlines()]

    cluster.wait_for(lambda: rows() and all(row[-1] != "Unknown" for row in rows()), 60)
    return [":".join(row[:-1]).replace(str(job_id), "JOB") for row in rows()]


def seen(cluster, ran):
    state, code = ran.end
    said = in_words(ran.err.encode()).decode().replace(str(ran.job_id), "JOB")
    return state, code, ran.out, re.sub(r"\bn\d+\b", "NODE", said), records(cluster, ran.job_id)


def restarted(cluster, ran, node):
    """Have the node fail under the job, and let the job begin anew; returns where it does."""
    # Drained, too: it comes back by itself, and would take the job again.
    cluster.scontrol("update", f"NodeName={node}", "State=DRAIN", "Reason=tested")
    cluster.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=tested")
    cluster.start_requeued(ran.job_id)
    ran.wait_to_write("run 1", timeout=60)
    return cluster.job_field(ran.job_id, "BatchHost")


def test_a_job_whose_node_fails_begins_anew_on_another(cluster, job, shared_dir):
    ends = {}
    for side, image in SIDES.items():
        go = shared_dir() / "go"
        body = (
            f"echo run ${{SLURM_RESTART_COUNT:-0}}\n[ $SLURM_RESTART_COUNT ] || exec {SLEEP}\n"
            f"while [ ! -e {go} ]; do sleep 0.1; done; echo ended\n"
        )
        options = ("--requeue", "--open-mode=append")
        ran = job(script(body, image, "/bin/bash"), *options).wait_to_write("run 0")
        first = cluster.job_field(ran.job_id, "BatchHost")
        second = restarted(cluster, ran, first)
        assert second not in ("", first)
        cluster.wait_for(lambda: not cluster.processes(SLEEP.replace(" ", "\0")), 60)
        cluster.wait_for(lambda first=first: not list((cluster.spool / first / "jobs").iterdir()))
        assert len(cluster.sandboxes()) == (1 if image else 0)
        go.touch()
        ends[side] = seen(cluster, ran)
        cluster.scontrol("update", f"NodeName={first}", "State=RESUME")
        cluster.wait_for(lambda: cluster.drained_nodes() == {})
    state, code, out, said, rows = ends["native"]
    assert (state, code, out) == ("COMPLETED", "0:0", "run 0\nrun 1\nended\n")
    assert "DUE TO NODE FAILURE" in said
    assert any("NODE_FAIL" in row for row in rows), rows
    assert ends["sandboxed"] == ends["native"]


@pytest.mark.parametrize("when", ["while slurmd is away", "after its return"])
def test_a_job_outlives_a_kill_of_slurmd(cluster, job, shared_dir, node, when):
    ends = {}
    for side, image in SIDES.items():
        folder = shared_dir()
        body = (
            f"echo ready; while [ ! -e {folder}/go ]; do sleep 0.1; done\n"
            f"echo went on; : >{folder}/over; exit 7\n"
        )
        ran = job(script(body, image, "/bin/bash"), f"--nodelist={node}").wait_to_write()
        cluster.kill(f"slurmd-{node}")
        if when == "after its return":
            cluster.up()
        (folder / "go").touch()
        cluster.wait_for((folder / "over").exists)
        cluster.up()
        ends[side] = seen(cluster, ran)
        cluster.wait_until_nothing_is_left(60)
    assert ends["native"][:3] == ("FAILED", "7:0", "ready\nwent on\n")
    assert ends["sandboxed"] == ends["native"]
    assert cluster.drained_nodes() == {}


def test_a_job_can_be_cancelled_after_a_kill_of_slurmd(cluster, job, node):
    ends = {}
    for side, image in SIDES.items():
        body = f"echo ready; exec {SLEEP}\n"
        ran = job(script(body, image, "/bin/bash"), f"--nodelist={node}").wait_to_write()
        cluster.kill(f"slurmd-{node}")
        cluster.scancel(ran.job_id)  # which nobody hears yet
        assert cluster.job_state(ran.job_id) == "COMPLETING"
        assert cluster.processes(SLEEP.replace(" ", "\0"))
        cluster.up()
        cluster.wait_for(lambda: not cluster.processes(SLEEP.replace(" ", "\0")), 90)
        ends[side] = ran.wait(90), records(cluster, ran.job_id)
        cluster.wait_until_nothing_is_left(60)
    assert ends["native"][0] == "CANCELLED"
    assert ends["sandboxed"] == ends["native"]
    assert cluster.drained_nodes() == {}
