"""A job's GPUs: the files that Slurm granted are inside, with the numbers of a native job.

The GPUs are pretended. Opening a file ends with ENXIO (no driver) where the devices cgroup
allows it, as for a native job, and with EPERM where it does not.
"""

from urllib.parse import quote

import pytest

from tests.integration.gpus_in_sight import LOOK, Sight, can_use, of_batch, put_look, sights
from tests.integration.submitted_job import script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]
with_gpus = pytest.mark.parametrize("cluster", [{"gpus": 3}], indirect=True)
with_parts = pytest.mark.parametrize("cluster", [{"gpus": 3, "gpu-kind": "parts"}], indirect=True)

DEMO = "localhost/sbridge-demo:latest"


@pytest.fixture(autouse=True)
def _others_find_all_gpus_free(cluster):
    yield
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_for(lambda: not cluster.slurm("squeue", "--noheader"))


@pytest.fixture
def look(shared_dir):
    """A program that looks, at the same place natively and in sandboxes."""
    return put_look(shared_dir("alice"))


@pytest.fixture
def occupied(cluster, job):
    """Have another job take the first GPU of the first node, so that others begin at 1."""
    body = "echo ready; sleep 987\n"
    taker = job(script(body), "--gres=gpu:1", f"--nodelist={cluster.nodes[0]}").wait_to_write()
    yield cluster.nodes[0]
    cluster.scancel(taker.job_id)


@pytest.fixture
def both(job, look):
    """Return what a native job and then a sandboxed one wrote; LOOK in the body is the program."""

    def both(body, *options):
        seen = []
        for image in ("", DEMO):
            ran = job(script(body.replace("LOOK", str(look)), image, "/bin/bash"), *options)
            assert ran.end == ("COMPLETED", "0:0"), ran.err
            seen.append(ran.out)
        return seen

    return both


@with_gpus
def test_exactly_the_granted_files_are_there_and_usable(both, occupied):
    native, sandboxed = map(of_batch, both("LOOK\n", "--gres=gpu:2", f"--nodelist={occupied}"))
    assert (native.usable, native.visible) == ({"gpu9", "gpu10"}, {"gpu8", "gpu9", "gpu10"})
    assert (sandboxed.usable, sandboxed.visible) == ({"gpu9", "gpu10"}, {"gpu9", "gpu10"})
    assert native.variables["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert native.variables["GPU_DEVICE_ORDINAL"] == "0,1"
    assert sandboxed.variables == native.variables


@with_gpus
def test_a_job_without_gpus_sees_none_nor_do_its_steps(both):
    seen = both("LOOK; srun LOOK\n", "--ntasks=2")
    native, sandboxed = map(sights, seen)
    assert len(native) == 3
    assert not any(sight.usable for sight in native.values())
    assert {place.partition("/")[2] for place in sandboxed} == {"batch/", "0/0", "0/1"}
    for sight in sandboxed.values():
        assert (sight.usable, sight.visible) == (set(), set())
    assert sandboxed == {place: Sight(variables=s.variables) for place, s in native.items()}


# What is asked for, what the script runs, and how many different views its tasks have.
STEPS = {
    "a GPU for each task": (["--ntasks=3", "--nodes=1", "--gpus-per-task=1"], "srun LOOK"),
    "all tasks share": (["--ntasks=2", "--gres=gpu:2"], "srun LOOK"),
    "bound one by one": (["--ntasks=2", "--gres=gpu:2"], "srun --gpu-bind=single:1 LOOK"),
    "bound by a map": (["--ntasks=2", "--gres=gpu:3"], "srun --gpu-bind=map_gpu:2,0 LOOK"),
    "bound by a mask": (["--ntasks=2", "--gres=gpu:3"], "srun --gpu-bind=mask_gpu:0x3,0x4 LOOK"),
    "fewer in a step": (
        ["--gres=gpu:3"],
        "srun --gres=gpu:1 LOOK; srun --gres=gpu:2 LOOK; srun -n1 --gpus=1 LOOK",
    ),
    "none in a step": (["--gres=gpu:2"], "srun --gres=none LOOK; srun LOOK"),
    "one step after the other": (
        ["--ntasks=2", "--gres=gpu:2"],
        "srun -n1 --exact --gres=gpu:1 LOOK; srun -n1 --overlap --gres=gpu:2 LOOK",
    ),
    "as many on each of two nodes": (
        ["--nodes=2", "--ntasks=4", "--gpus-per-node=2"],
        "LOOK; srun LOOK",
    ),
    "a GPU for each task of two nodes": (
        ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1"],
        "LOOK; srun LOOK",
    ),
    "two nodes by their sum": (["--nodes=2", "--ntasks=2", "--gpus=4"], "srun LOOK"),
}


@with_gpus
@pytest.mark.parametrize("title", STEPS)
def test_steps_and_tasks_have_the_gpus_that_slurm_gave_them(cluster, both, title):
    options, body = STEPS[title]
    nodes = [] if "--nodes=2" in options else [f"--nodelist={cluster.nodes[0]}"]
    native, sandboxed = map(sights, both(f"LOOK; {body}\n", *options, *nodes))
    assert len(native) > 1
    assert any(sight.usable for sight in native.values())
    assert can_use(sandboxed) == can_use(native)
    of_job = {}  # of each node, what the job's tasks there can use together
    for place, sight in native.items():
        of_job.setdefault(place.partition("/")[0], set()).update(sight.usable)
    for place, sight in sandboxed.items():
        assert sight.visible == of_job[place.partition("/")[0]]


@with_gpus
def test_steps_at_the_same_time_share_no_gpu(both, look):
    """Each of the two waits until the other has looked; which gets which is not fixed."""
    meet = look.with_name("meet")
    meet.write_text(
        f'#!/bin/bash\n{look}; touch "$1.$2"; while ! [ -e "$1.$3" ]; do sleep 0.1; done'
    )
    meet.chmod(0o755)
    step = f"srun -n1 --exact --mem=40 --gres=gpu:1 {meet} {meet}.$SLURM_JOB_ID"
    body = f"{step} one other & {step} other one & wait\n"
    for seen in map(sights, both(body, "--ntasks=2", "--gres=gpu:2")):
        usable = sorted(sorted(sight.usable) for sight in seen.values())
        assert usable == [["gpu8"], ["gpu9"]]


@with_gpus
def test_jobs_and_tasks_of_an_array_at_the_same_time_share_no_gpu(cluster, look, shared_dir):
    """On one node, each with what is left; all run until all have looked."""
    folder = shared_dir("alice")
    body = f"{look}; touch {folder}/done.$SLURM_JOB_ID\n"
    body += f"while [ $(ls {folder} | grep -c done) -lt 3 ]; do sleep 0.1; done\n"
    for kind, image in (("native", ""), ("sandboxed", DEMO)):
        options = ["--gres=gpu:1", f"--nodelist={cluster.nodes[0]}", f"-o{folder}/{kind}.%A_%a.%j"]
        text = script(body, image, "/bin/bash")
        ids = [
            cluster.sbatch("alice", text, *options),
            cluster.sbatch("alice", text, *options, "--array=4,7"),
        ]
        for job_id in ids:
            assert cluster.wait_job(job_id) == "COMPLETED"
        cluster.wait_for(lambda kind=kind: len(list(folder.glob(f"{kind}.*"))) == 3)
        seen = [of_batch(path.read_text()) for path in folder.glob(f"{kind}.*")]
        assert sorted(name for sight in seen for name in sight.usable) == ["gpu10", "gpu8", "gpu9"]
        assert [sight.variables["CUDA_VISIBLE_DEVICES"] for sight in seen] == ["0"] * 3
        if image:
            assert [sight.visible for sight in seen] == [sight.usable for sight in seen]
        for path in folder.glob("done.*"):
            path.unlink()


@with_gpus
def test_nodes_of_a_job_show_each_its_own_choice(both, occupied, cluster):
    options = ("--nodes=2", "--ntasks=2", "--gpus-per-node=1", "--gpu-bind=none")
    native, sandboxed = map(sights, both("srun LOOK\n", *options))
    first, second = cluster.nodes[:2]
    assert occupied == first
    for seen in (native, sandboxed):
        assert seen[f"{first}/0/0"].usable == {"gpu9"}
        assert seen[f"{second}/0/1"].usable == {"gpu8"}
    assert can_use(sandboxed) == can_use(native)
    for sight in sandboxed.values():
        assert sight.visible == sight.usable


@with_gpus
def test_each_task_of_srun_from_outside_has_its_gpu(cluster, look):
    request = f"sbridge1?image={quote(DEMO, safe='')}"
    node = f"--nodelist={cluster.nodes[0]}"
    options = [node, "--ntasks=2", "--gpus-per-task=1", "--mem=100", f"--comment={request}"]
    native, sandboxed = (
        sights(cluster.as_user("alice", ["srun", *options, *interpreter, str(look)]))
        for interpreter in ((), ("sbridge-run", "/bin/bash"))
    )
    assert [sorted(sight.usable) for _, sight in sorted(native.items())] == [["gpu8"], ["gpu9"]]
    assert can_use(sandboxed) == can_use(native)


@with_gpus
def test_a_run_whose_prolog_never_spoke_has_its_gpus(cluster, job):
    """slurmd runs no Prolog for a job that starts again within seconds on the same node."""
    node = cluster.nodes[0]
    body = f'{LOOK}[ -n "$SLURM_RESTART_COUNT" ] && exit; echo ready; sleep 987\n'
    options = ("--gres=gpu:2", f"--nodelist={node}", "--requeue", "--open-mode=append")
    ran = job(script(body, DEMO, interpreter="/bin/bash"), *options).wait_to_write()
    before = of_batch(ran.out)
    cluster.scontrol("requeue", str(ran.job_id))
    cluster.start_requeued(ran.job_id)
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    after = of_batch(ran.out.partition("ready\n")[2])
    for sight in (before, after):
        assert (sight.usable, sight.visible) == ({"gpu8", "gpu9"}, {"gpu8", "gpu9"})


@with_parts
def test_parts_of_one_gpu_have_the_shared_file_and_their_own(both, occupied):
    """As MIG makes them: gres.conf names several files for each."""
    native, sandboxed = map(of_batch, both("LOOK\n", "--gres=gpu:1", f"--nodelist={occupied}"))
    assert native.usable == {"gpu7", "gpu9"}
    assert sandboxed.can_use == native.can_use
    assert sandboxed.visible == native.usable
    two, inside = map(of_batch, both("LOOK\n", "--gres=gpu:2", f"--nodelist={occupied}"))
    assert two.usable == {"gpu7", "gpu9", "gpu10"}
    assert inside.can_use == two.can_use
    assert inside.visible == two.usable


@pytest.mark.parametrize("cluster", [{"gpus": 3, "proctrack": "linuxproc"}], indirect=True)
def test_without_slurms_cgroups_the_sandbox_has_the_granted_files_only(job):
    ran = job(script(LOOK, DEMO, interpreter="/bin/bash"), "--gres=gpu:2")
    assert ran.end == ("COMPLETED", "0:0"), ran.err
    sight = of_batch(ran.out)
    assert (sight.usable, sight.visible) == ({"gpu8", "gpu9"}, {"gpu8", "gpu9"})
