"""The pod that an administrator sees beforehand is the pod that a job then has."""

import json
from concurrent.futures import ThreadPoolExecutor

import yaml

from tests.integration.slurm_on_kubernetes import ALPINE, ON_PODS
from tests.integration.submitted_job import script

AWAY = "127.0.0.1:9/away"  # a registry where nobody listens

pytestmark = ON_PODS


def test_the_pod_of_a_job_is_the_one_that_was_printed_for_its_file(cluster, job, shared_dir):
    text = script("echo ready; sleep 987\n", ALPINE, header="#SBATCH -c 1 -A lab -p main\n")
    file = shared_dir() / "job.sh"
    file.write_text(text)
    ran = job(text).wait_to_write()
    node = cluster.job_field(ran.job_id, "BatchHost")
    made = cluster.spool / node / "jobs" / f"{ran.job_id}.0" / "manifest.json"
    options = [f"--job-id={ran.job_id}", f"--node={node}", "--user=alice"]
    argv = [str(cluster.prefix / "bin/sbridge"), "kubernetes", "pod", str(file), *options]

    assert yaml.safe_load(cluster.as_user("root", argv)) == json.loads(made.read_text())

    cluster.scancel(ran.job_id)
    cluster.wait_until_clean()


def test_an_agent_takes_no_trial_on_its_node_for_an_orphan(cluster):
    """It removes pods without a job when it starts."""
    node = cluster.nodes[0]
    sbridge = str(cluster.prefix / "bin/sbridge")
    options = [f"--image={AWAY}", "--user=alice", f"--node={node}", "--apply", "--timeout=12"]
    with ThreadPoolExecutor() as beside:
        trial = beside.submit(cluster.run_as, "root", [sbridge, "kubernetes", "pod", *options])
        cluster.wait_for(cluster.pods)
        cluster.kill_agents()
        cluster.start_agents()
        told = trial.result().stderr

    assert "does not run after 12 s: waiting for the registry" in told
    assert (cluster.spool / node / "share/init").exists()
    assert cluster.pods() == []
