"""MPI programs in pods: what they need of Slurm's own nodes is there, too."""

from urllib.parse import quote

import pytest

from tests.integration import mpi_image
from tests.integration.pushed_image import push_archive
from tests.integration.running_kubernetes import IMAGES
from tests.integration.slurm_on_kubernetes import ON_PODS
from tests.integration.submitted_job import script

pytestmark = [*ON_PODS, pytest.mark.usefixtures("clean_afterwards")]

EVERYBODY = ["0 of 4", "1 of 4", "2 of 4", "3 of 4"]


@pytest.fixture(scope="module")
def images(slurm_on_kubernetes, tmp_path_factory):
    """Put an image with each MPI into the registry; gives their names."""
    registry = slurm_on_kubernetes.kubernetes.environment["SBRIDGE_K8S_REGISTRY"]
    names = {}
    for flavour in mpi_image.FLAVOURS:
        archive = mpi_image.make(flavour, tmp_path_factory.mktemp(flavour))
        push_archive(registry, f"exchange-{flavour}", archive)
        names[flavour] = f"{IMAGES}/exchange-{flavour}:latest"
    return names


def srun(cluster, image, *words):
    request = f"--comment=sbridge1?image={quote(image, safe='')}"
    shape = ("--nodes=2", "--ntasks=4", "--overcommit", "--mem=600")  # on one CPU each
    said = cluster.as_user("alice", ["srun", *shape, request, *words], timeout=120)
    return sorted(said.splitlines())


def test_open_mpi_programs_in_pods_meet_by_pmix(cluster, images):
    words = ("--mpi=pmix", "sbridge-run", "/usr/bin/exchange-openmpi", "2")
    assert srun(cluster, images["openmpi"], *words) == EVERYBODY


def test_mpich_programs_in_pods_meet_by_pmi2(cluster, images):
    words = ("--mpi=pmi2", "sbridge-run", "/usr/bin/exchange-mpich", "2", "without-finalize")
    assert srun(cluster, images["mpich"], *words) == EVERYBODY


def test_mpirun_in_a_pod_starts_its_daemons_by_the_srun_inside(cluster, images, job):
    body = "mpirun.openmpi -np 2 exchange-openmpi 2\n"
    ran = job(script(body, images["openmpi"], header="#SBATCH --mem=600\n"), "--nodes=2")
    assert ran.wait(timeout=120) == "COMPLETED", ran.err
    assert sorted(ran.out.splitlines()) == ["0 of 2", "1 of 2"]
