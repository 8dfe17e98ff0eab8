"""What matters most, on each release of Slurm that is not the installed one.

`scripts/test FILE --slurm 24.11` runs any other file on that release, test_fidelity.py too.
"""

import json

import pytest

from tests.integration.fidelity import attributes, ends, steps, verdict
from tests.integration.fidelity.image import image_with_interpreters
from tests.integration.fidelity.observed import PLAIN, observe
from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

IMAGE = "localhost/sbridge-demo:latest"
# Where releases differ most, and where it matters how Slurm knows who asks.
ROWS = [row for row in (*ends.ROWS, *attributes.ROWS) if not row.is_long]
STEPS = [row for row in steps.ROWS if not row.is_long]


@pytest.fixture(scope="module", params=["24.11", "26.05"])
def cluster(request, new_cluster):
    """A cluster of that release, which is down again before the next one comes up."""
    made = new_cluster()
    made.up(slurm=request.param, nodes=2)
    assert made.release == request.param
    yield made
    made.dev_cluster("down")


@pytest.fixture(scope="module")
def directives(cluster):
    """What makes a script a native one, and a sandboxed one."""
    return {"native": PLAIN, "sandboxed": f"#K8S_IMAGE={image_with_interpreters(cluster)}\n"}


def check_same(cluster, rows, directives, folder):
    """Fail unless these rows of the table look the same natively and in a sandbox."""
    table = observe(cluster, rows, directives, folder)
    verdicts = {row.title: verdict.of(row, "cgroup", table) for row in rows}
    wrong = {title: pair for title, pair in verdicts.items() if pair[0] != pair[1]}
    seen = {title: pair[1] for title, pair in wrong.items()}
    assert seen == {title: pair[0] for title, pair in wrong.items()}


def test_a_sandboxed_job_ends_with_its_own_exit_code(cluster, job):
    ran = job(script("id -un; cat /etc/os-release; exit 7\n", IMAGE))
    assert ran.end == ("FAILED", "7:0")
    assert ran.out.startswith("alice\n")
    cluster.wait_for(lambda: cluster.accounting(ran.job_id).get("ExitCode") == "7:0")
    cluster.wait_until_nothing_is_left()


def test_the_request_travels_behind_the_users_own_extra(cluster, job):
    held = job(script("true\n", IMAGE), "--hold", "--comment=my own", "--extra=a=b c")
    assert cluster.job_field(held.job_id, "Comment") == "my own"
    extra = cluster.job_field(held.job_id, "Extra")
    assert extra == "a=b c sbridge1?image=localhost%2Fsbridge-demo%3Alatest"
    cluster.scancel(held.job_id)


def test_a_dropped_file_comes_back_with_its_results(cluster):
    text = script('echo out; echo kept > "$SBRIDGE_OUTPUTS/file"; exit 3\n', IMAGE)
    cluster.drop("alice", "dropped.sh", text)
    folder = results_of_dropped(cluster, "dropped.sh")
    summary = json.loads((folder / "job_summary.json").read_text(encoding="utf-8"))
    assert (summary["state"], summary["exit_code"]) == ("FAILED", 3)
    assert (folder / "stdout.log").read_text() == "out\n"
    assert (folder / "outputs/file").read_text() == "kept\n"


def test_jobs_look_and_end_as_natively(cluster, directives, shared_dir):
    check_same(cluster, ROWS, directives, shared_dir("alice"))


def test_scancel_ends_every_process(cluster, job):
    running = job(script("sleep 985 & echo ready; wait\n", IMAGE)).wait_to_write()
    cluster.scancel(running.job_id)
    assert running.wait() == "CANCELLED"
    assert cluster.processes("sleep\0985") == []
    cluster.wait_until_nothing_is_left()


def test_too_much_memory_is_slurms_out_of_memory(job):
    assert job(script("tail /dev/zero\n", IMAGE)).wait() == "OUT_OF_MEMORY"


def test_a_requeued_job_runs_again_in_a_sandbox(cluster, job):
    body = 'echo "ready ${SLURM_RESTART_COUNT:-0}"; [ "$SLURM_RESTART_COUNT" = 1 ] || sleep 600\n'
    running = job(script(body, IMAGE), "--requeue").wait_to_write("ready 0")
    cluster.scontrol("requeue", str(running.job_id))
    cluster.start_requeued(running.job_id)
    assert running.end == ("COMPLETED", "0:0")
    assert running.out == "ready 1\n"


def test_a_plain_jobs_steps_run(job):
    ran = job(script("srun -n2 --label sh -c 'echo $SLURM_PROCID'\n"), "-n2")
    assert ran.end == ("COMPLETED", "0:0")
    assert sorted(ran.out.split("\n")) == ["", "0: 0", "1: 1"]


def test_auth_slurm_does_without_munge(cluster, job):
    cluster.up(auth="slurm")
    assert "munged" not in cluster.pids()
    ran = job(script("srun id -un; id -un; exit 5\n"), user="bob")
    sandboxed = job(script("id -un; exit 6\n", IMAGE))
    assert (ran.end, ran.out) == (("FAILED", "5:0"), "bob\nbob\n")
    assert (sandboxed.end, sandboxed.out) == (("FAILED", "6:0"), "alice\n")
    cluster.drop("bob", "of-bob.sh", script("exit 4\n", IMAGE))
    assert (
        '"exit_code": 4'
        in (results_of_dropped(cluster, "of-bob.sh") / "job_summary.json").read_text()
    )
    cluster.wait_for(lambda: cluster.accounting(ran.job_id).get("ExitCode") == "5:0")


def test_steps_look_as_natively_without_munge(cluster, directives, shared_dir):
    cluster.up(auth="slurm")
    check_same(cluster, STEPS, directives, shared_dir("alice"))


def test_a_cluster_keeps_its_release(cluster):
    other = "26.05" if cluster.release == "24.11" else "24.11"
    refused = cluster.dev_cluster("up", f"--slurm={other}")
    assert refused.returncode == 1
    assert f"is one of Slurm {cluster.release}" in refused.stderr


def test_auth_slurm_is_refused_to_a_slurm_that_has_none(new_cluster):
    made = new_cluster()
    refused = made.dev_cluster("up", "--slurm=22.05", "--auth=slurm")
    assert refused.returncode == 1
    assert "auth/slurm begins with Slurm 23.11" in refused.stderr
    assert list(made.state.iterdir()) == []


def results_of_dropped(cluster, name):
    """Wait for the results of the one dropped file of this name; return their folder."""

    def folders():
        receipts = cluster.processed.glob(f"*_{name}")
        return [cluster.results / receipt.name.partition("_")[0] for receipt in receipts]

    cluster.wait_for(lambda: any((f / "job_summary.json").exists() for f in folders()), 60, name)
    (folder,) = folders()
    return folder
