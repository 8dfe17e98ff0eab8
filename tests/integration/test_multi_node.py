"""A job on several nodes begins when all its sandboxes are ready, and its tasks find each other."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration import image_from_node
from tests.integration.bad_registry import silent_registry
from tests.integration.submitted_job import script

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.podman,
    pytest.mark.parametrize("cluster", [{"nodes": 4}], indirect=True),
]

DEMO = "localhost/sbridge-demo:latest"
HERE = Path(__file__).parent


@pytest.fixture
def nodes(cluster):
    """Two nodes; a job on them has its script on the first."""
    return cluster.nodes[:2]


@pytest.fixture(autouse=True)
def _leaves_nothing(cluster):
    yield
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_for(lambda: not cluster.sandboxes(), timeout=60)
    cluster.wait_for(lambda: "sbridge1/" not in cluster.scontrol("show", "node"))


@pytest.fixture
def aliased(cluster):
    """Give the image another name, under which one node's agent has to ask a registry for it."""
    made = []

    def aliased(registry):
        made.append(f"{registry}/demo:1")
        cluster.podman("tag", DEMO, made[-1])
        return made[-1]

    yield aliased
    for name in made:
        cluster.podman("untag", DEMO, name)


@pytest.fixture
def own_storage(cluster):
    """The settings with which an agent has none of the images that the others have.

    To be named before `replace_agent`, whose agent must have ended when the storage goes.
    """
    usual = f"{cluster.state}/podman"
    own = cluster.state / "alone"  # Podman takes short paths only
    yield [(f"={usual}/{name}", f"={own}/{name}") for name in ("root", "run")]
    for mounted in cluster.mounts():
        if Path(mounted).is_relative_to(own):
            subprocess.run(["umount", mounted], check=True)
    shutil.rmtree(own)


def submit(job, nodes, image, body="echo ran on $SLURM_JOB_NODELIST\n", *options):
    words = (f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}", *options)
    return job(script(body, image), *words)


def comment_of(cluster, node):
    found = re.search(r"^   Comment=(.*)", cluster.scontrol("show", "node", node), re.MULTILINE)
    return found[1] if found else ""


def test_nothing_begins_before_the_sandbox_of_every_node_is_ready(
    cluster, job, own_storage, replace_agent, aliased
):
    *_, last = nodes = cluster.nodes
    assert len(nodes) == 4
    with silent_registry() as registry:
        image = aliased(registry)
        replace_agent(last, *own_storage)
        ran = submit(job, nodes, image)
        ran.wait_to_say(f"waiting for the job's sandbox on {last}")
        assert ran.out == ""
        replace_agent(last)
        assert ran.end == ("COMPLETED", "0:0")
    assert ran.out.startswith("ran on ")


def test_a_node_that_refuses_the_image_fails_the_whole_job_and_is_named(
    cluster, job, nodes, replace_agent
):
    replace_agent(nodes[1], ("[sandbox]\n", '[sandbox]\nallowed_images = ["other/*"]\n'))
    ran = submit(job, nodes, DEMO)
    assert ran.end == ("FAILED", "1:0")
    assert ran.out == ""
    assert f"sbridge: node {nodes[1]}: image {DEMO} is not allowed here" in ran.err
    assert cluster.drained_nodes() == {}


def test_what_is_nobodys_fault_requeues_the_whole_job_and_names_the_node(
    cluster, job, nodes, own_storage, replace_agent, aliased
):
    image = aliased("127.0.0.1:1")  # where nobody listens
    patience = ("[agent]\n", "[agent]\nsandbox_start_timeout_s = 2.0\n")
    replace_agent(nodes[1], *own_storage, patience)
    ran = submit(job, nodes, image, "echo ran\n", "--requeue", "--open-mode=append")
    ran.wait_to_say("asking Slurm to requeue the job")
    cluster.wait_for(lambda: cluster.job_field(ran.job_id, "Restarts") == "1")
    assert f"sbridge: node {nodes[1]}: " in ran.err
    assert ran.out == ""
    assert cluster.drained_nodes() == {}


def test_what_others_wrote_about_a_node_stays_and_our_word_goes(cluster, job, nodes):
    own = 'rack 7,  "left" a=b'
    for node in nodes:
        cluster.scontrol("update", f"NodeName={node}", f"Comment={own}")
    ran = submit(job, nodes, DEMO, "echo ready; sleep 987\n").wait_to_write()
    for node in nodes:
        said = comment_of(cluster, node)
        assert said.startswith(f"{own} sbridge1/{ran.job_id}.0/ready/")
    cluster.scancel(ran.job_id)
    cluster.wait_for(lambda: [comment_of(cluster, node) for node in nodes] == [own, own])
    for node in nodes:
        cluster.scontrol("update", f"NodeName={node}", "Comment=")


def test_a_job_on_one_node_is_not_told_of(cluster, job):
    ran = job(script("echo ready; env; sleep 987\n", DEMO)).wait_to_write("SBRIDGE_OUTPUTS")
    assert "sbridge1/" not in cluster.scontrol("show", "node")
    assert "MASTER_ADDR" not in ran.out


def srun(cluster, image, *argv, options=(), timeout=60):
    request = f"--comment=sbridge1?image={quote(image, safe='')}"
    command = ["srun", "--nodes=2", "--mem=100", request, *options, "sbridge-run", *argv]
    return cluster.as_user("alice", command, timeout=timeout)


def test_tasks_know_their_ranks_and_what_the_user_set_stays(cluster):
    body = "echo $RANK/$WORLD_SIZE $LOCAL_RANK $NODE_RANK $MASTER_ADDR:$MASTER_PORT"
    options = ("--nodes=4", "--ntasks-per-node=2", "--export=ALL,MASTER_ADDR=mine")
    lines = srun(cluster, DEMO, "/bin/bash", "-c", body, options=options).splitlines()
    ranks = sorted(line.split()[:3] for line in lines)
    assert ranks == [[f"{n}/8", str(n % 2), str(n // 2)] for n in range(8)]
    (address,) = {line.split()[3] for line in lines}
    assert re.fullmatch(r"mine:2\d{4}", address)


def test_the_batch_script_knows_where_but_has_no_rank(job, nodes):
    ran = submit(job, nodes, DEMO, "env\n")
    assert ran.wait() == "COMPLETED"
    assert re.search(r"^MASTER_PORT=2\d{4}$", ran.out, re.MULTILINE)
    assert "MASTER_ADDR=127.0.0.1" in ran.out
    assert not re.search(r"^(RANK|WORLD_SIZE)=", ran.out, re.MULTILINE)


# Each node's program meets the others at the first one's, as torchrun's do.
MEET = r"""
if [ "$NODE_RANK" = 0 ]; then
    exec busybox nc -l -p "$MASTER_PORT"
fi
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    echo "hello from $RANK of $WORLD_SIZE" | busybox nc "$MASTER_ADDR" "$MASTER_PORT" && exit 0
    busybox sleep 0.5
done
exit 1
"""


def test_a_launcher_on_each_node_meets_the_others_over_tcp(cluster):
    said = srun(cluster, "localhost/busybox:latest", "/bin/sh", "-c", MEET)
    assert said == "hello from 1 of 2\n"


# --- A launcher on each node, whose workers are its own -------------------------------------------


@pytest.fixture(scope="module")
def python_archive(tmp_path_factory):
    """Pack this machine's Python as an image."""
    python = Path("/usr/bin/python3").resolve()
    (library,) = Path("/usr/lib").glob(python.name)
    target = tmp_path_factory.mktemp("python") / "image.tar"
    return image_from_node.archive(target, (python, "/usr/bin/sh"), (str(library),))


@pytest.fixture
def python_image(cluster, python_archive):
    name = "localhost/with-python:1"
    cluster.podman("import", "--quiet", str(python_archive), name)
    yield name
    cluster.podman("rmi", "--force", name)


def test_launchers_of_two_jobs_on_the_same_nodes_meet_at_ports_of_their_own(
    job, nodes, python_image, shared_dir
):
    folder = shared_dir()
    launcher = folder / "launcher.py"
    shutil.copy(HERE / "launcher.py", launcher)
    launcher.chmod(0o644)
    python = Path("/usr/bin/python3").resolve()
    body = f"srun --ntasks-per-node=1 {python} {launcher} {folder}/go\n"
    jobs = [submit(job, nodes, python_image, body, "--ntasks-per-node=1") for _ in range(2)]
    for ran in jobs:
        ran.wait_to_write("4 met at ", timeout=60)
    assert jobs[0].out != jobs[1].out
    (folder / "go").touch()
    assert [ran.end for ran in jobs] == [("COMPLETED", "0:0")] * 2
