"""MPI programs of images: started by srun and by their own mpirun, on one node and on several.

`scripts/test FILE --slurm 24.11` runs this on another release, with the same images.
"""

import shutil
from urllib.parse import quote

import pytest

from tests.integration import mpi_image
from tests.integration.running_cluster import run
from tests.integration.submitted_job import script

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.podman,
    pytest.mark.parametrize("cluster", [{"nodes": 4}], indirect=True),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Make the archives of the images, by what their MPI is called."""
    return {
        name: mpi_image.make(name, tmp_path_factory.mktemp(name)) for name in mpi_image.FLAVOURS
    }


@pytest.fixture
def image(cluster, images):
    """Give the name of an image, once Podman has it."""
    there = set(cluster.podman("images", "--format", "{{.Repository}}").split())

    def image(flavour):
        name = f"localhost/exchange-{flavour}"
        if name not in there:
            cluster.podman("import", "--quiet", str(images[flavour]), f"{name}:latest")
        return f"{name}:latest"

    return image


@pytest.fixture
def on_node(images, shared_dir):
    """Put a program where jobs without an image have it, too; returns its path."""
    folder = shared_dir("alice")

    def on_node(name, flavour):
        program = images[flavour].parent / f"{name}-{flavour}"
        return shutil.copy(program, folder)

    return on_node


@pytest.fixture(autouse=True)
def _leaves_nothing(cluster):
    yield
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_for(lambda: not cluster.sandboxes(), timeout=60)


@pytest.fixture
def pmix(cluster):
    """Skip the test where Slurm was built without PMIx, as Debian's 26.05 is."""
    said = run(["srun", "--mpi=list"], environment=cluster.slurm_environment)
    if "pmix" not in said.stdout + said.stderr:
        with pytest.raises(pytest.fail.Exception, match=r"[Ii]nvalid MPI type"):
            cluster.as_user("alice", ["srun", "--mpi=pmix", "true"])
        pytest.skip(f"this Slurm {cluster.release} has no PMIx")


def srun(cluster, image, *options, program=(), timeout=120):
    request = f"sbridge1?image={quote(image, safe='')}"
    field = "comment" if cluster.release < "23.02" else "extra"
    command = ["srun", "--mem=600", f"--{field}={request}", *options, "sbridge-run", *program]
    return sorted(cluster.as_user("alice", command, timeout=timeout).splitlines())


def everybody(count):
    return [f"{rank} of {count}" for rank in range(count)]


@pytest.mark.parametrize("tasks", [2, 4])
def test_mpich_programs_on_one_node_meet_by_pmi2(cluster, image, tasks):
    program = ("/usr/bin/exchange-mpich", "3")
    options = ("--mpi=pmi2", "--nodes=1", f"--ntasks={tasks}")
    assert srun(cluster, image("mpich"), *options, program=program) == everybody(tasks)


@pytest.mark.parametrize(("nodes", "each"), [(2, 1), (2, 2), (3, 2), (4, 1)])
def test_mpich_programs_on_several_nodes_meet_by_pmi2(cluster, image, nodes, each):
    program = ("/usr/bin/exchange-mpich", "3", "without-finalize")
    options = ("--mpi=pmi2", f"--nodes={nodes}", f"--ntasks-per-node={each}")
    assert srun(cluster, image("mpich"), *options, program=program) == everybody(nodes * each)


@pytest.mark.usefixtures("pmix")
@pytest.mark.parametrize(("nodes", "each"), [(1, 4), (2, 1), (2, 2), (3, 2), (4, 1)])
def test_open_mpi_programs_meet_by_pmix(cluster, image, nodes, each):
    program = ("/usr/bin/exchange-openmpi", "3")
    options = ("--mpi=pmix", f"--nodes={nodes}", f"--ntasks-per-node={each}")
    assert srun(cluster, image("openmpi"), *options, program=program) == everybody(nodes * each)


@pytest.mark.usefixtures("pmix")
def test_pmix_needs_no_folder_in_the_image_but_tmp(cluster, image):
    """As where a site's TmpFS is the usual one."""
    options = ("--mpi=pmix", "--nodes=1", "--ntasks=2", "--export=ALL,SLURM_PMIX_TMPDIR=/tmp")
    program = ("/usr/bin/exchange-openmpi", "1")
    assert srun(cluster, image("openmpi"), *options, program=program) == everybody(2)


@pytest.mark.usefixtures("pmix")
def test_a_step_sees_the_pmix_folder_of_no_other_step(cluster, image):
    body = '[ -O "$PMIX_SERVER_TMPDIR" ] && echo own; cd "$PMIX_SERVER_TMPDIR/.." && echo *'
    options = ("--mpi=pmix", "--nodes=1", "--ntasks=1")
    said = srun(cluster, image("openmpi"), *options, program=("/bin/sh", "-c", body))
    assert said == ["*", "own"]  # what else is in slurmd's folder cannot be read
    said = srun(cluster, image("openmpi"), "--nodes=1", program=("/bin/sh", "-c", "env"))
    assert not [line for line in said if line.startswith("PMIX_")]


def inside(job, image, body, *options):
    ran = job(script(body, image, header="#SBATCH --mem=600\n"), *options)
    assert (ran.wait(timeout=120), ran.err) == ("COMPLETED", ran.err)
    return sorted(ran.out.splitlines())


@pytest.fixture
def both(cluster, job, image, on_node):
    """Run processes of which one fails, natively and in a sandbox; returns both ends."""

    def both(flavour, pmi, how):
        program = on_node("failing", flavour)
        body = f"srun --kill-on-bad-exit=1 --mpi={pmi} {program} {how}; echo $?\n"
        return [ended(cluster, job, body, name) for name in ("", image(flavour))]

    return both


@pytest.mark.parametrize("how", ["exit 5", "abort 7", "signal 9"])
def test_a_mpich_process_that_fails_ends_the_others_as_natively(both, how):
    native, sandboxed = both("mpich", "pmi2", how)
    assert sandboxed == native
    assert native[1:] == ("0:9" if "abort" in how else "0:15", "CANCELLED")


@pytest.mark.usefixtures("pmix")
def test_an_open_mpi_process_that_fails_ends_the_others_as_natively(both):
    """By its exit code: of MPI_Abort see docs/critiques.md."""
    native, sandboxed = both("openmpi", "pmix", "exit 5")
    assert sandboxed == native
    assert native[1:] == ("0:15", "CANCELLED")


def ended(cluster, job, body, image):
    """Return what a step's end was for its script, and for Slurm's accounting."""
    ran = job(script(body, image, header="#SBATCH --mem=600\n"), "--nodes=1", "--ntasks=3")
    assert (ran.wait(timeout=120), ran.err) == ("COMPLETED", ran.err)
    cluster.wait_for(lambda: cluster.accounting(ran.job_id, "0").get("End", "Unknown") != "Unknown")
    record = cluster.accounting(ran.job_id, "0")
    return ran.out, record["ExitCode"], record["State"].split(" ")[0]


TWO = ("--nodes=2", "--ntasks-per-node=2")


def test_a_script_inside_starts_mpich_programs_on_its_nodes(job, image):
    body = "srun --mpi=pmi2 exchange-mpich 3 without-finalize\n"
    assert inside(job, image("mpich"), body, *TWO) == everybody(4)


@pytest.mark.usefixtures("pmix")
def test_a_script_inside_starts_open_mpi_programs_on_its_nodes(job, image):
    body = "srun --mpi=pmix exchange-openmpi 3\n"
    assert inside(job, image("openmpi"), body, *TWO) == everybody(4)


def test_mpirun_of_open_mpi_starts_its_daemons_by_the_srun_inside(job, image):
    body = "mpirun.openmpi exchange-openmpi 3\n"
    assert inside(job, image("openmpi"), body, *TWO) == everybody(4)


def test_mpiexec_of_mpich_starts_its_daemons_by_the_srun_inside(job, image):
    body = "mpiexec.hydra exchange-mpich 3 without-finalize\n"
    assert inside(job, image("mpich"), body, *TWO) == everybody(4)
