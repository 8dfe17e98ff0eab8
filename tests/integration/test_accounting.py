"""sacct and sstat have the numbers of a sandboxed job that they have of a native one.

Memory and CPU time are Slurm's own where it counts by cgroups. Where it counts descendants of its
steps (proctrack/linuxproc), it sees sbridge-run only; docs/critiques.md says why. The summary has
what keepers saw, which is right in both.
"""

import json
import re

import pytest

from bridge.slurm.jobs import kib, seconds
from tests.integration.submitted_job import script

DEMO = "localhost/sbridge-demo:latest"
PROCTRACKS = [{"proctrack": "cgroup"}, {"proctrack": "linuxproc"}]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.podman,
    pytest.mark.parametrize("cluster", PROCTRACKS, indirect=True, ids=lambda p: p["proctrack"]),
]

CPU_S, WALL_S, MEMORY_MIB = 5, 32, 300
SEEN_S = 10
# Uses memory and CPU time, says so, and stays for the rest of its time; on a busy machine until it
# could be looked at.
USE = f"""my $data = "x" x shift; 1 while (times)[0] + (times)[1] < {CPU_S}; $| = 1;
print "used\\n"; my $used = time; sleep 1 while time < $^T + {WALL_S} || time < $used + {SEEN_S}"""
BODY = f"""export USE='{USE}'
{{
    srun -n2 --overlap --mem=0 bash -c '[ $SLURM_PROCID = 1 ] && exec sleep {WALL_S}
        exec perl -e "$USE" {MEMORY_MIB << 20}'
    echo lasted 0 $SECONDS
}} &
perl -e "$USE" {MEMORY_MIB << 20}; wait
sleep 1; echo lasted batch $SECONDS
"""  # Slurm notes the end of a step a little late
OPTIONS = ("-n2", "-N1", "--mem=900", "--acctg-freq=task=1", "--comment=my own")
STEPS = ("batch", "0")
# Whatever a tenth is: sacct writes AveCPU in whole seconds, a busy machine takes seconds to make a
# sandbox, and of a task's TotalCPU Slurm has whole seconds of user and system time, to which it
# adds the fractions of the process that it started. Each step has one task that uses any.
RESOLUTION = {"AveCPU": 1, "ElapsedRaw": 4, "TotalCPU": 2}
COUNTED_BY_TREE = {"MaxRSS", "AveCPU", "TotalCPU"}


@pytest.fixture
def jobs(job):
    """Run a job natively and in a sandbox at the same time."""
    return [job(script(BODY, image, "/bin/bash"), *OPTIONS) for image in ("", DEMO)]


def test_numbers_are_within_a_tenth_of_the_native_ones(cluster, jobs, request):
    proctrack = request.node.callspec.params["cluster"]["proctrack"]
    lives = [
        live_when_used(cluster, each, is_seen=proctrack == "cgroup" or each is jobs[0])
        for each in jobs
    ]
    assert [each.wait(90) for each in jobs] == ["COMPLETED", "COMPLETED"]
    ended = [recorded(cluster, each) for each in jobs]
    for native, sandboxed in (lives, ended):
        assert set(native) == set(sandboxed) >= set(STEPS)
        for step in native:
            compare(step, native[step], sandboxed[step], proctrack)
    assert ended[0]["batch"]["MaxRSS"] > MEMORY_MIB * 1000
    assert ended[0]["0"]["TotalCPU"] >= CPU_S
    summary = summarized(cluster, jobs[1])
    used = ended[0][""]["TotalCPU"], ended[0]["batch"]["MaxRSS"]
    assert (summary["cpu_s"], summary["max_rss_kib"]) == pytest.approx(used, rel=0.1)


def compare(step, native, sandboxed, proctrack):
    """Fail when two records differ where they need not, or do not where they must."""
    assert set(native) == set(sandboxed)
    for name, value in native.items():
        tasks = len(STEPS) if name == "TotalCPU" and not step else 1
        allowed = max(0.1 * value, tasks * RESOLUTION.get(name, 0))
        is_same = abs(sandboxed[name] - value) <= allowed
        told = f"{step} {name}: {value:g} natively, {sandboxed[name]:g} in a sandbox"
        if proctrack == "linuxproc" and name in COUNTED_BY_TREE and value > 1:
            assert not is_same, f"{told}: mended, docs/critiques.md has a line too many"
        else:
            assert is_same, told


def live_when_used(cluster, job, *, is_seen):
    """Return what sstat tells of a job that uses no more, once it saw that if it ever will."""
    cluster.wait_for(lambda: job.out.count("used\n") == len(STEPS), 120)
    if is_seen:
        cluster.wait_for(
            lambda: all(step["MaxRSS"] > MEMORY_MIB * 1000 for step in live(cluster, job).values())
        )
    return live(cluster, job)


def live(cluster, job):
    """Return what sstat tells of the running steps, as numbers."""
    steps = ",".join(f"{job.job_id}.{step}" for step in STEPS)
    columns = ("JobID", "NTasks", "MaxRSS", "AveCPU")
    return numbers(columns, cluster.slurm("sstat", "-nP", "-j", steps, "-o", ",".join(columns)))


def summarized(cluster, job):
    path = cluster.results / str(job.job_id) / "job_summary.json"
    cluster.wait_for(path.exists)
    return json.loads(path.read_text(encoding="utf-8"))


def recorded(cluster, job):
    """Return what sacct tells of the job ("") and its steps, once it knows of all their ends.

    The time that each took is beyond what its script saw: two may not get the same of busy cores.
    """
    columns = ("JobID", "NTasks", "MaxRSS", "AveCPU", "TotalCPU", "ElapsedRaw")
    sacct = ("sacct", "-nP", "-j", str(job.job_id), "-o")
    cluster.wait_for(lambda: "Unknown" not in cluster.slurm(*sacct, "End"))
    assert cluster.slurm(*sacct, "Comment").split("\n")[0].startswith("my own")
    found = numbers(columns, cluster.slurm(*sacct, ",".join(columns)))
    lasted = {step: int(text) for step, text in re.findall(r"lasted (\w+) (\d+)", job.out)}
    for step, record in found.items():
        record["ElapsedRaw"] -= lasted.get(step, lasted["batch"])
    return found


def numbers(columns, text):
    found = {}
    for line in text.splitlines():
        row = dict(zip(columns, line.split("|"), strict=True))
        step = row.pop("JobID").partition(".")[2]
        found[step] = {name: number(name, value) for name, value in row.items() if value}
    return found


def number(name, value):
    return kib(value) if name == "MaxRSS" else seconds(value) if "CPU" in name else float(value)
