"""From a job file dropped on the NAS to verified results, whatever the job's end."""

import json
import pwd
import subprocess
import time

import pytest

from bridge.slurm.hostlist import expand_hostlist
from tests.integration.running_cluster import own_stderr

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "#K8S_IMAGE=localhost/sbridge-demo:latest\n"


def script(body, image=DEMO):
    return f"#!/bin/bash\n#SBATCH --mem=200 --time=5\n{image}{body}"


@pytest.fixture
def gate(shared_dir):
    """A file that is not there yet; see `passing`."""
    return shared_dir("alice") / "go"


def passing(gate):
    """Return the shell's words for: wait until the gate is there."""
    return f"while [ ! -e {gate} ]; do sleep 0.1; done"


@pytest.fixture
def drop(cluster):
    """Drop a job file as alice and wait until Slurm has it; returns the job's id."""

    def drop(name, text, user="alice"):
        cluster.drop(user, name, text)
        cluster.wait_for(lambda: accepted(cluster, name), what=f"{name} in processed/")
        return int(accepted(cluster, name)[0].name.split("_")[0])

    return drop


def accepted(cluster, name):
    return [path for path in cluster.processed.iterdir() if path.name.endswith(f"_{name}")]


def finished(cluster, job_id, timeout=60):
    """Wait until the result folder is complete; return it and its summary."""
    folder = cluster.results / str(job_id)
    summary = folder / "job_summary.json"
    cluster.wait_for(summary.exists, timeout, what=f"results of job {job_id}")
    cluster.wait_for(lambda: not list(folder.glob(".*")), what="the marker's end, soon after")
    check = ["sha256sum", "--check", "--strict", "--quiet", "checksums.txt"]
    subprocess.run(check, cwd=folder, check=True)
    return folder, json.loads(summary.read_text(encoding="utf-8"))


def test_a_dropped_job_comes_back_with_its_results(cluster, drop):
    body = 'echo out; echo err >&2; echo data > "$SBRIDGE_OUTPUTS/파일 1.txt"\n'
    job_id = drop("나의 작업.sh", script(body))
    folder, summary = finished(cluster, job_id)
    assert (folder / "stdout.log").read_text() == "out\n"
    assert own_stderr(folder / "stderr.log") == b"err\n"
    assert (folder / "outputs" / "파일 1.txt").read_text() == "data\n"
    assert summary["state"] == "COMPLETED"
    assert summary["exit_code"] == 0
    assert summary["user"] == "alice"
    assert summary["image"] == "localhost/sbridge-demo:latest"
    assert {path.stat().st_uid for path in folder.rglob("*")} == {pwd.getpwnam("alice").pw_uid}
    text = (folder / "job_summary.txt").read_text(encoding="utf-8")
    assert "succeeded" in text
    assert "성공" in text


def test_a_plain_job_file_is_a_plain_slurm_job_with_results(cluster, drop):
    body = 'echo on $SLURMD_NODENAME; echo 1 > "$SBRIDGE_OUTPUTS/one"\n'
    job_id = drop("plain.sh", script(body, image=""))
    folder, summary = finished(cluster, job_id)
    assert (folder / "stdout.log").read_text().startswith("on ")
    assert (folder / "outputs" / "one").read_text() == "1\n"
    assert summary["sandbox"] == ""


def test_a_failing_job_comes_back_too(cluster, drop):
    folder, summary = finished(cluster, drop("fails.sh", script("echo no >&2; exit 7\n")))
    assert (summary["state"], summary["exit_code"]) == ("FAILED", 7)
    assert own_stderr(folder / "stderr.log") == b"no\n"


def test_a_job_that_runs_out_of_time_comes_back_too(cluster, drop):
    job_id = drop("long.sh", script("echo begun; sleep 600\n"))
    log = cluster.results / str(job_id) / "stdout.log"
    cluster.wait_for(lambda: log.exists() and log.read_text() == "begun\n", what="its start")
    cluster.scontrol("update", f"JobId={job_id}", "EndTime=now+1")
    folder, summary = finished(cluster, job_id, timeout=90)
    assert (summary["state"], summary["outcome"]) == ("TIMEOUT", "timeout")
    assert (folder / "stdout.log").read_text() == "begun\n"
    assert "DUE TO TIME LIMIT" in (folder / "stderr.log").read_text()


def test_a_plain_sbatch_job_is_told_where_its_own_output_is(cluster, shared_dir):
    own = shared_dir("alice")
    streams = ["-o", f"{own}/out", "-e", f"{own}/err 1"]
    job_id = cluster.sbatch("alice", script("exit 3\n"), *streams)
    folder, summary = finished(cluster, job_id)
    told = f"The job ended with exit code 3. {own}/err 1 should say why."
    assert summary["explanation"] == told
    assert told in (folder / "job_summary.txt").read_text(encoding="utf-8")
    assert (folder / "checksums.txt").read_text().endswith("  job_summary.txt\n")
    assert sorted(path.name for path in folder.iterdir()) == [
        "checksums.txt",
        "job_summary.json",
        "job_summary.txt",
        "outputs",
    ]


def test_a_job_whose_image_does_not_exist_says_so_in_its_results(cluster, drop):
    text = script("echo hi\n", image="#K8S_IMAGE=localhost/nosuch:1\n")
    folder, summary = finished(cluster, drop("noimage.sh", text))
    assert summary["state"] == "FAILED"
    assert "localhost/nosuch:1 is not on this node" in summary["reason"]
    assert "localhost/nosuch:1" in (folder / "stderr.log").read_text()
    assert cluster.drained_nodes() == {}


def test_a_fallback_shell_is_a_warning_in_the_summary(cluster, drop):
    text = script("echo hi\n", image="#K8S_IMAGE=localhost/busybox:latest\n")
    _, summary = finished(cluster, drop("nobash.sh", text))
    assert summary["state"] == "COMPLETED"
    assert any("/bin/bash" in warning for warning in summary["warnings"])


def test_logs_grow_while_the_job_runs_and_a_cancelled_job_comes_back(cluster, drop, gate):
    job_id = drop("grows.sh", script(f"echo one; {passing(gate)}; echo two; sleep 600\n"))
    log = cluster.results / str(job_id) / "stdout.log"
    cluster.wait_for(lambda: log.exists() and log.read_text() == "one\n", what="the first line")
    gate.touch()
    cluster.wait_for(lambda: log.read_text() == "one\ntwo\n", what="the second line")
    assert not (log.parent / "job_summary.json").exists()
    cluster.scancel(job_id)
    folder, summary = finished(cluster, job_id)
    assert summary["state"] == "CANCELLED"
    assert (folder / "stdout.log").read_text() == "one\ntwo\n"
    assert "CANCELLED AT" in (folder / "stderr.log").read_text()


def test_results_wait_for_a_nas_that_is_away(cluster, drop):
    away = cluster.results.with_name("results-away")
    job_id = drop("patient.sh", script("echo done\n"))
    cluster.results.rename(away)
    try:
        cluster.wait_job(job_id)
        cluster.wait_for(lambda: cluster.sandboxes() == [])
    finally:
        away.rename(cluster.results)
    folder, _ = finished(cluster, job_id)
    assert (folder / "stdout.log").read_text() == "done\n"
    assert cluster.drained_nodes() == {}


def test_killed_agents_publish_after_their_return(cluster, drop, gate):
    job_id = drop("survivor.sh", script(f"echo ready; {passing(gate)}; echo end\n"))
    log = cluster.results / str(job_id) / "stdout.log"
    cluster.wait_for(lambda: log.exists() and "ready" in log.read_text(), what="its start")
    cluster.kill_agents()
    cluster.start_agents()
    gate.touch()
    folder, summary = finished(cluster, job_id)
    assert (folder / "stdout.log").read_text() == "ready\nend\n"
    assert summary["state"] == "COMPLETED"


def test_slurmctld_away_at_the_end_delays_the_summary_and_loses_nothing(cluster, drop, gate):
    job_id = drop("ctld.sh", script(f"{passing(gate)}; echo end; exit 4\n"))
    cluster.wait_for(lambda: cluster.job_state(job_id) == "RUNNING")
    saved, started = cluster.state / "spool/slurmctld/job_state", time.time()
    cluster.wait_for(lambda: saved.stat().st_mtime > started, what="slurmctld's own record")
    cluster.kill("slurmctld")
    gate.touch()
    log = cluster.results / str(job_id) / "stdout.log"
    cluster.wait_for(lambda: log.exists() and log.read_text() == "end\n", what="the job's end")
    cluster.up()
    _, summary = finished(cluster, job_id, timeout=120)
    assert (summary["state"], summary["exit_code"]) == ("FAILED", 4)


def test_another_user_cannot_take_a_result_folder(cluster, drop):
    """bob makes the folder that alice's next job would get."""
    probe = cluster.sbatch("bob", "#!/bin/bash\ntrue\n", "-o", "/dev/null")
    guessed = probe + 1
    squat = ["mkdir", "-m", "777", str(cluster.results / str(guessed))]
    cluster.as_user("bob", squat)
    assert drop("victim.sh", script("echo mine\n")) == guessed
    folder = cluster.results / f"{guessed}_2"
    cluster.wait_for(
        (folder / "job_summary.json").exists, what="results beside the squatted folder"
    )
    assert (folder / "stdout.log").read_text() == "mine\n"
    assert list((cluster.results / str(guessed)).iterdir()) == []


# --- Several nodes, and several parts -------------------------------------------------------------

TWO_NODES = "#SBATCH --nodes=2 --ntasks-per-node=1\n"
# Each node's task, and the script.
EACH = """srun sh -c 'echo $NODE_RANK >"$SBRIDGE_OUTPUTS/rank"; mkdir "$SBRIDGE_OUTPUTS/$NODE_RANK"'
echo script >"$SBRIDGE_OUTPUTS/script"
"""


def check_each(cluster, folder, summary):
    first, second = expand_hostlist(summary["nodes"])
    assert {first, second} <= set(cluster.nodes)
    outputs = folder / "outputs"
    assert (outputs / "script").read_text() == "script\n"
    assert (outputs / "rank").read_text() == "0\n"
    assert (outputs / second / "rank").read_text() == "1\n"
    assert (outputs / second / "1").is_dir()
    assert summary["outputs"]["files"] == 3
    assert f"outputs/{second}/rank\n" in (folder / "checksums.txt").read_text()
    return second


def spooled(cluster, node, job_id):
    return list((cluster.spool / node / "jobs").glob(f"{job_id}.*"))


def test_outputs_of_every_node_come_back(cluster, drop):
    job_id = drop("two-nodes.sh", script(EACH, DEMO + TWO_NODES))
    folder, summary = finished(cluster, job_id)
    second = check_each(cluster, folder, summary)
    cluster.wait_for(lambda: spooled(cluster, second, job_id) == [])
    cluster.wait_for(lambda: "sbridge1/" not in cluster.scontrol("show", "node"))


def test_results_wait_for_a_node_whose_nas_is_away(cluster, drop, replace_agent):
    second = cluster.nodes[1]
    replace_agent(second, (f'results = "{cluster.results}"', 'results = "/no/such/place"'))
    job_id = drop("late.sh", script(EACH, DEMO + TWO_NODES))
    assert cluster.wait_job(job_id) == "COMPLETED"
    cluster.wait_for(lambda: any(e["run"] == f"{job_id}.0" for e in delayed(cluster, second)))
    folder = cluster.results / str(job_id)
    assert not (folder / "job_summary.json").exists()
    replace_agent(second)  # which finds the run on its disk
    folder, summary = finished(cluster, job_id)
    assert check_each(cluster, folder, summary) == second
    assert summary["warnings"] == []


def delayed(cluster, node):
    return cluster.told(node, "results_delayed")


PARTS = "#SBATCH hetjob\n#SBATCH --mem=200 --ntasks=1\n"


@pytest.mark.parametrize("has_outputs", [False, True], ids=["nothing", "outputs"])
def test_a_further_part_has_a_result_folder_only_for_outputs(cluster, drop, has_outputs):
    words = "echo part >$SBRIDGE_OUTPUTS/part; echo ran" if has_outputs else "echo ran"
    body = f"echo $SLURM_JOB_ID_HET_GROUP_1; srun --het-group=1 sh -c '{words}'\n"
    job_id = drop(f"parts-{has_outputs}.sh", script(body, DEMO + PARTS))
    folder, _ = finished(cluster, job_id, timeout=120)  # Slurm backfills such jobs
    further, said = (folder / "stdout.log").read_text().split()
    assert (int(further), said) == (job_id + 1, "ran")
    cluster.wait_for(lambda: not any(spooled(cluster, node, further) for node in cluster.nodes))
    if has_outputs:
        other, _ = finished(cluster, int(further))
        assert (other / "outputs/part").read_text() == "part\n"
    else:
        assert not (cluster.results / further).exists()
