"""A sandboxed job is a Slurm job in every respect: the table, row by row.

Each row runs natively and in a sandbox on the same cluster, all of them at once; then each test
compares one. `fidelity/` holds the rows. `--slurm` and `--auth` say with which Slurm.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fidelity import attributes, ends, steps, streams, submission, verdict
from tests.integration.fidelity.image import image_with_interpreters
from tests.integration.fidelity.observed import PLAIN, Seen, in_words, observe
from tests.integration.running_cluster import Cluster
from tests.integration.running_kubernetes import Kubernetes
from tests.integration.slurm_on_kubernetes import SlurmOnKubernetes

pytestmark = pytest.mark.slurm

_ALL = (*streams.ROWS, *ends.ROWS, *attributes.ROWS, *submission.ROWS, *steps.ROWS)
# What takes longest begins first, but for what many others would have to wait for.
ROWS = sorted(_ALL, key=lambda row: (not row.is_long, row.is_heavy))
_SHORT = [row for row in ROWS if not row.is_long]
# What is run where unless asked for more: all but the heaviest in one place.
DEFAULT = {
    ("podman", "cgroup"): [row for row in ROWS if not row.is_heavy],
    ("podman", "linuxproc"): _SHORT,
    ("kubernetes", "cgroup"): _SHORT,
    ("kubernetes", "linuxproc"): [row for row in _SHORT if row in (*ends.ROWS, *attributes.ROWS)],
}
NODES = 3
PREEMPTED = """trap 'echo TERM' TERM
[ ${SLURM_RESTART_COUNT:-0} = 1 ] && exit
echo ready; while :; do sleep 0.1; done
"""
MARKS = {"podman": pytest.mark.podman, "kubernetes": pytest.mark.kubernetes}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each row to the places where it is to be run, by default or with --whole-table."""
    is_whole = metafunc.config.getoption("--whole-table")
    for_rows = "row" in metafunc.fixturenames
    cases = []
    for place, usual in DEFAULT.items():
        name, mark = "-".join(place), MARKS[place[0]]
        rows = ROWS if is_whole else usual
        if for_rows:
            cases += [
                pytest.param(place, row, id=f"{name}-{row.title}", marks=mark) for row in rows
            ]
        elif place[1] == "cgroup":
            cases.append(pytest.param(place, id=name, marks=mark))
    names = ("place", "row") if for_rows else ("place",)
    metafunc.parametrize(names, cases, indirect=["place"], scope="module")


@pytest.fixture(scope="module")
def place(request) -> tuple[str, str]:
    """The runtime, and how Slurm follows processes."""
    runtime, proctrack = request.param
    return runtime, proctrack


@pytest.fixture(scope="module")
def pods(new_kubernetes) -> Iterator[Kubernetes]:
    """Give a Kubernetes of its own, whose nodes have CPUs for many rows that wait."""
    made = new_kubernetes()
    made.up(nodes=NODES)
    yield made
    down = made.command("down", "--purge")
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture(scope="module")
def cluster(request, new_cluster, place, slurm_options) -> Iterator[Cluster]:
    """Give a cluster of its own, whose nodes have enough CPUs for each row."""
    runtime, proctrack = place
    options = {"proctrack": proctrack, **slurm_options}
    made = new_cluster()
    if runtime == "kubernetes":
        made = SlurmOnKubernetes(made.state, kubernetes=request.getfixturevalue("pods"))
    made.up(runtime=runtime, nodes=NODES, **options)
    yield made
    down = made.dev_cluster("down", "--purge")
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture(scope="module")
def directive(cluster, place) -> str:
    """What makes a script a sandboxed one."""
    image = image_with_interpreters(cluster)
    if place[0] == "kubernetes":
        registry = cluster.kubernetes.environment["SBRIDGE_K8S_REGISTRY"]
        there = f"docker://{registry}/interpreters:latest"
        cluster.podman("push", "--quiet", "--tls-verify=false", image, there)
        image = "nas-hub.local:5407/interpreters:latest"
    return f"#K8S_IMAGE={image}\n"


@pytest.fixture
def sides(directive) -> dict[str, str]:
    return {"native": PLAIN, "sandboxed": directive}


@pytest.fixture(scope="module")
def folder(cluster) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="fidelity-", dir=cluster.home("alice")))
    cluster.give(made, user="alice", mode=0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def table(request, cluster, place, directive, folder) -> dict[tuple[str, str], Seen]:
    """Run the rows whose tests were chosen; returns what was seen by title and side."""
    chosen = [getattr(item, "callspec", None) for item in request.session.items]
    params = [spec.params for spec in chosen if spec and "row" in spec.params]
    rows = [each["row"] for each in params if each["place"] == place]
    seen = observe(cluster, rows, {"native": PLAIN, "sandboxed": directive}, folder)
    assert cluster.drained_nodes() == {}
    return seen


def test_a_job_is_the_same_in_a_sandbox(table, place, row):
    wanted, seen = verdict.of(row, place[1], table)
    assert seen == wanted


@pytest.mark.parametrize("mode", ["cancel", "requeue"])
def test_a_preempted_job_ends_as_natively(cluster, folder, sides, mode):
    """After the table, whose jobs would be in the way."""
    node = cluster.nodes[0]
    seen = {}
    for kind, line in sides.items():
        out = folder / f"{kind}-{mode}.out"
        script = f"#!/bin/bash\n{line}{PREEMPTED}"
        options = (f"--partition={mode}", f"--nodelist={node}", "--exclusive", "--mem=0")
        job_id = cluster.sbatch("alice", script, *options, "--open-mode=append", "-o", str(out))
        cluster.wait_for(lambda out=out: out.exists() and b"ready" in out.read_bytes())
        urgent = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "-o", "/dev/null")
        preemptor = cluster.sbatch("alice", "#!/bin/sh\ntrue\n", *urgent)
        assert cluster.wait_job(preemptor) == "COMPLETED"
        if mode == "requeue":
            cluster.start_requeued(job_id)
        state = cluster.wait_job(job_id)
        text = in_words(out.read_bytes()).decode().replace(str(job_id), "JOB")
        seen[kind] = state, text, records(cluster, job_id)
    assert seen["native"][0] == {"cancel": "PREEMPTED", "requeue": "COMPLETED"}[mode]
    assert any("PREEMPTED" in record for record in seen["native"][2])
    assert seen["sandboxed"] == seen["native"]
    cluster.wait_until_nothing_is_left()


def records(cluster, job_id):
    """Return how each run of a job and its steps ended, by accounting."""

    def rows():
        sacct = ("sacct", "-n", "-P", "-D", "-j", str(job_id), "-o", "JobID,State,ExitCode,End")
        return [row.split("|") for row in cluster.slurm(*sacct).splitlines()]

    cluster.wait_for(lambda: rows() and all(row[-1] != "Unknown" for row in rows()))
    return [":".join(row[:-1]).replace(str(job_id), "JOB") for row in rows()]


def test_a_job_can_be_cancelled_at_any_moment(cluster, folder, sides):
    """Pending, in the Prolog, while its sandbox is being made, and when it runs."""
    for kind, line in sides.items():
        script = f"#!/bin/bash\n{line}sleep 8765; echo went on\n"
        for number in range(12):
            out = folder / f"{kind}-cancelled{number}.out"
            job_id = cluster.sbatch("alice", script, "--mem=100", "-o", str(out))
            time.sleep(number / 8)  # the moment is what is tried
            cluster.scancel(job_id)
            assert cluster.wait_job(job_id) == "CANCELLED"
            said = in_words(out.read_bytes()) if out.exists() else b""
            assert re.fullmatch(rb"(\S+ error: \*\*\* JOB .*\n)?", said)
    cluster.wait_until_nothing_is_left()
    assert cluster.processes("sleep\0008765") == []
    assert cluster.drained_nodes() == {}


def wait_until_idle(cluster, node):
    """Have a node that was set down back: it may come back by itself."""

    def is_idle():
        state = cluster.slurm("sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%T").strip()
        if state.startswith("down"):
            cluster.run_as("root", ["scontrol", "update", f"NodeName={node}", "State=RESUME"])
        return state == "idle"

    cluster.wait_for(is_idle)


def test_a_node_that_fails_ends_the_job_as_natively(cluster, folder, sides):
    """After the table, whose jobs would end with it."""
    node = cluster.nodes[0]
    ends = {}
    for kind, line in sides.items():
        out = folder / f"{kind}-failing.out"
        script = f"#!/bin/bash\n{line}echo ready; sleep 987\n"
        options = ("--no-requeue", f"--nodelist={node}", "--mem=100", "-o", str(out))
        job_id = cluster.sbatch("alice", script, *options)
        cluster.wait_for(lambda out=out: out.exists() and b"ready" in out.read_bytes())
        cluster.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=tested")
        state = cluster.wait_job(job_id)
        wait_until_idle(cluster, node)
        ends[kind] = state, cluster.job_field(job_id, "ExitCode")
    assert ends["native"][0] == "NODE_FAIL"
    assert ends["sandboxed"] == ends["native"]
    cluster.wait_until_nothing_is_left()
