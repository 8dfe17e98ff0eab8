"""STOP, TSTP and `scontrol suspend` stop the same processes of a sandboxed job as natively."""

from pathlib import Path

import pytest

from tests.integration.conftest import DEFAULT_OPTIONS
from tests.integration.slurm_on_kubernetes import BASH
from tests.integration.submitted_job import script

IMAGES = {"podman": "localhost/sbridge-demo:latest", "kubernetes": BASH}
# The former is the fixture that ours stands before: it knows which options the cluster has.
CLUSTERS = {"podman": "cluster", "kubernetes": "slurm_on_kubernetes"}
PLACES = [
    pytest.param((runtime, proctrack), marks=getattr(pytest.mark, runtime))
    for runtime in IMAGES
    for proctrack in ("cgroup", "linuxproc")
]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.parametrize("place", PLACES, indirect=True, ids="-".join, scope="module"),
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


@pytest.fixture(scope="module")
def place(request):
    """The runtime, and how Slurm follows processes."""
    return request.param


@pytest.fixture(scope="module")
def cluster(request, place, slurm_options):
    """Give the shared cluster of a runtime, with this way of following processes."""
    runtime, proctrack = place
    options = {**DEFAULT_OPTIONS, **slurm_options, "runtime": runtime}
    made = request.getfixturevalue(CLUSTERS[runtime])
    made.up(**{**options, "proctrack": proctrack})
    yield made
    made.up(**options)


@pytest.fixture
def jobs(cluster, job, place):
    """Start one job natively and one in a sandbox."""
    made = [job(script(BODY, image, "/bin/bash")) for image in ("", IMAGES[place[0]])]
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


def test_a_suspended_job_is_told_before_it_is_stopped_wholly(cluster, jobs, place):
    is_cgroup = place[1] == "cgroup"
    for one in jobs:
        cluster.scontrol("suspend", str(one.job_id))
        # Slurm sends TSTP, to whom it knows, and two seconds later what cannot be caught.
        first = ALONE if is_cgroup else STOPPED
        cluster.wait_for(lambda one=one, first=first: stopped(one) == first)
        cluster.wait_for(lambda one=one: stopped(one) == STOPPED)
