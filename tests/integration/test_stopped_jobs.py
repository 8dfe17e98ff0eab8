"""STOP, TSTP and `scontrol suspend` stop the same processes of a sandboxed job as natively."""

from pathlib import Path

import pytest

from tests.integration.submitted_job import script

DEMO = "localhost/sbridge-demo:latest"
PROCTRACKS = [{"proctrack": "cgroup"}, {"proctrack": "linuxproc"}]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.podman,
    pytest.mark.parametrize("cluster", PROCTRACKS, indirect=True, ids=lambda p: p["proctrack"]),
]

LOOP = "'while :; do sleep 0.1; done'"
BODY = f"""
bash -c {LOOP} child-$SLURM_JOB_ID &
exec bash -c 'echo ready; '{LOOP} parent-$SLURM_JOB_ID
"""
RUNNING = {"parent": False, "child": False}
STOPPED = {"parent": True, "child": True}
ALONE = {"parent": True, "child": False}


def stopped(job):
    """Return whether the script's process and its child are stopped, or frozen."""
    return {name: _state(f"{name}-{job.job_id}") in "TD" for name in ("parent", "child")}


def _state(last_word):
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("cmdline").read_bytes().endswith(f"\0{last_word}\0".encode()):
                return path.joinpath("stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    pytest.fail(f"no process {last_word}")


@pytest.fixture
def jobs(cluster, job):
    """Start one job natively and one in a sandbox."""
    made = [job(script(BODY, image, "/bin/bash")) for image in ("", DEMO)]
    yield [each.wait_to_write() for each in made]
    for each in made:
        cluster.scancel(each.job_id)
    assert [each.wait() for each in made] == ["CANCELLED", "CANCELLED"]
    cluster.wait_for(lambda: not cluster.sandboxes())


@pytest.mark.parametrize("name", ["STOP", "TSTP"])
@pytest.mark.parametrize(("option", "reached"), [("-b", ALONE), ("-f", STOPPED)])
def test_a_stopping_signal_stops_the_native_processes(cluster, jobs, option, reached, name):
    for one in jobs:
        cluster.scancel(one.job_id, option, "-s", name)
        cluster.wait_for(lambda one=one: stopped(one) == reached)
        cluster.scancel(one.job_id, option, "-s", "CONT")
        cluster.wait_for(lambda one=one: stopped(one) == RUNNING)
        cluster.scancel(one.job_id, option, "-s", name)
        cluster.wait_for(lambda one=one: stopped(one) == reached)


def test_a_suspended_job_is_stopped_wholly_and_resumed(cluster, jobs):
    for one in jobs:
        for _ in range(2):
            cluster.scontrol("suspend", str(one.job_id))
            cluster.wait_for(lambda one=one: stopped(one) == STOPPED)
            assert cluster.job_state(one.job_id) == "SUSPENDED"
            cluster.scontrol("resume", str(one.job_id))
            cluster.wait_for(lambda one=one: stopped(one) == RUNNING)


def test_a_suspended_job_is_told_before_it_is_stopped_wholly(cluster, jobs, request):
    is_cgroup = request.node.callspec.params["cluster"]["proctrack"] == "cgroup"
    for one in jobs:
        cluster.scontrol("suspend", str(one.job_id))
        # Slurm sends TSTP, to whom it knows, and two seconds later what cannot be caught.
        first = ALONE if is_cgroup else STOPPED
        cluster.wait_for(lambda one=one, first=first: stopped(one) == first)
        cluster.wait_for(lambda one=one: stopped(one) == STOPPED)
