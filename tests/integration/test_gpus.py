"""A job's GPUs: the files that Slurm granted are inside, with the numbers of a native job.

The GPUs are pretended. Opening a file ends with ENXIO (no driver) where the devices cgroup
allows it, as for a native job, and with EPERM where it does not.
"""

from urllib.parse import quote

import pytest

from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]
with_gpus = pytest.mark.parametrize("cluster", [{"gpus": 3}], indirect=True)

DEMO = "localhost/sbridge-demo:latest"
# What programs can see of GPUs: variables, and each device file with how opening it ends.
LOOK = r"""env | grep -E '^(CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|SLURM_.*GPUS)=' | sort
for file in /dev/sbridge-dev$((${SLURMD_NODENAME#n} / 100))/gpu*; do
    [ -c "$file" ] && echo "${file##*/}: $( (: <"$file") 2>&1 | sed 's/.*: //')"
done
true
"""
USABLE = "No such device or address"


def devices(text):
    """Return the device files that can be used, and all that can be seen."""
    rows = [line.split(": ", 1) for line in text.splitlines() if line.startswith("gpu")]
    return [name for name, end in rows if end == USABLE], [name for name, _ in rows]


def variables(text):
    return [line for line in text.splitlines() if "=" in line]


@pytest.fixture
def occupied(cluster, job):
    """Have another job take the first GPU of the first node, so that others begin at 1."""
    body = "echo ready; sleep 987\n"
    taker = job(script(body), "--gres=gpu:1", f"--nodelist={cluster.nodes[0]}").wait_to_write()
    yield cluster.nodes[0]
    cluster.scancel(taker.job_id)


def both(job, *options):
    """Return what a native job and then a sandboxed one see."""
    seen = []
    for image in ("", DEMO):
        ran = job(script(LOOK, image, interpreter="/bin/bash"), *options)
        assert ran.end == ("COMPLETED", "0:0"), ran.err
        seen.append(ran.out)
    return seen


@with_gpus
def test_exactly_the_granted_files_are_there_and_usable(job, occupied):
    native, sandboxed = both(job, "--gres=gpu:2", f"--nodelist={occupied}")
    assert devices(native) == (["gpu10", "gpu9"], ["gpu10", "gpu8", "gpu9"])
    assert devices(sandboxed) == (["gpu10", "gpu9"], ["gpu10", "gpu9"])
    assert "CUDA_VISIBLE_DEVICES=0,1" in variables(native)
    assert variables(sandboxed) == variables(native)


@with_gpus
def test_a_job_without_gpus_sees_none(job):
    native, sandboxed = both(job)
    assert devices(native)[0] == []
    assert devices(sandboxed) == ([], [])
    assert variables(sandboxed) == variables(native)


@with_gpus
def test_each_task_has_the_gpu_that_slurm_gave_it(cluster):
    request = f"sbridge1?image={quote(DEMO, safe='')}"
    options = ["--ntasks=2", "--nodes=1", "--gpus-per-task=1", "--mem=100", f"--comment={request}"]
    options += ["--label"]

    def seen(*interpreter):
        ran = cluster.as_user("alice", ["srun", *options, *interpreter, "-c", LOOK])
        return [sorted(devices_of_task(ran, task)) for task in "01"]

    def devices_of_task(text, task):
        lines = [line[3:] for line in text.splitlines() if line.startswith(f"{task}: ")]
        return [*variables("\n".join(lines)), *devices("\n".join(lines))[0]]

    native = seen("/bin/bash")
    assert any("CUDA_VISIBLE_DEVICES" in line for line in native[0])
    assert seen("sbridge-run", "/bin/bash") == native


@with_gpus
def test_a_run_whose_prolog_never_spoke_has_its_gpus(cluster, job):
    """slurmd runs no Prolog for a job that starts again within seconds on the same node."""
    node = cluster.nodes[0]
    body = f'{LOOK}[ -n "$SLURM_RESTART_COUNT" ] && exit; echo ready; sleep 987\n'
    options = ("--gres=gpu:2", f"--nodelist={node}", "--requeue", "--open-mode=append")
    ran = job(script(body, DEMO, interpreter="/bin/bash"), *options).wait_to_write()
    before = devices(ran.out)
    cluster.scontrol("requeue", str(ran.job_id))
    cluster.start_requeued(ran.job_id)
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    assert before == (["gpu8", "gpu9"], ["gpu8", "gpu9"])
    assert devices(ran.out) == (before[0] * 2, before[1] * 2)


@pytest.mark.parametrize("cluster", [{"gpus": 3, "proctrack": "linuxproc"}], indirect=True)
def test_without_slurms_cgroups_the_sandbox_has_the_granted_files_only(job):
    ran = job(script(LOOK, DEMO, interpreter="/bin/bash"), "--gres=gpu:2")
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    assert devices(ran.out) == (["gpu8", "gpu9"], ["gpu8", "gpu9"])
