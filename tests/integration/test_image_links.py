"""Links of an image lead whoever makes a sandbox, as root, into no folder of the node."""

from pathlib import Path

import pytest

from tests.integration.pushed_image import push
from tests.integration.running_cluster import ENDED
from tests.integration.slurm_on_kubernetes import ON_PODS
from tests.integration.submitted_job import script

pytestmark = [*ON_PODS, pytest.mark.podman, pytest.mark.usefixtures("clean_afterwards")]

BUSYBOX = Path("/bin/busybox").read_bytes()
# Where container runtimes make files, folders and devices to mount, or sbridge has its own.
LINKS = ("etc", "var", "sbridge")
# runc follows a link at /dev on the node itself, and makes these links there.
OF_RUNC = {"fd", "stdin", "stdout", "stderr", "ptmx"}


@pytest.fixture
def image(cluster):
    """Put an image with these files and links where both runtimes find it."""
    registry = cluster.kubernetes.environment["SBRIDGE_K8S_REGISTRY"]
    made = []

    def image(name, files, links):
        push(registry, name, {"bin/sh": BUSYBOX, **files}, links=links)
        made.append(f"{registry}/{name}:latest")
        cluster.podman("pull", "--quiet", "--tls-verify=false", made[-1])
        return made[-1]

    yield image
    for name in made:
        cluster.podman("rmi", "--force", name)


@pytest.mark.parametrize("runtime", ["kubernetes", "podman"])
@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_made_where_an_image_links_to(cluster, job, image, shared_dir, name, runtime):
    others = shared_dir("bob")
    # The folder is in the image, too: Podman goes on with such a link only.
    inside = {f"{str(others).strip('/')}/a-file": b""}
    made = image(f"link-{name}", inside, {name: str(others)})
    ran = job(script("echo ran\n", made, header=f"#K8S_RUNTIME={runtime}\n"))
    assert ran.wait() in ENDED
    assert list(others.iterdir()) == []
    assert "ran" in ran.out or name != "etc", ran.err  # the others hold what it needs
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}


@pytest.mark.parametrize("runtime", ["kubernetes", "podman"])
def test_an_image_whose_devices_are_a_link_fails_its_job(cluster, job, image, shared_dir, runtime):
    others = shared_dir("bob")
    inside = {f"{str(others).strip('/')}/a-file": b""}
    made = image("link-dev", inside, {"dev": str(others)})
    ran = job(script("echo ran\n", made, header=f"#K8S_RUNTIME={runtime}\n"))
    assert ran.end == ("FAILED", "1:0"), ran.err
    assert "/dev must be a folder there: " in ran.err.splitlines()[-1]
    found = set(others.iterdir())
    assert {path.name for path in found if path.is_symlink()} <= OF_RUNC
    assert [path for path in found if not path.is_symlink()] == []
    assert cluster.drained_nodes() == {}


@pytest.mark.parametrize("runtime", ["kubernetes", "podman"])
def test_a_home_that_is_a_link_in_the_image_is_the_nodes_all_the_same(
    cluster, job, image, shared_dir, runtime
):
    made = image("moved-home", {"var/home/a-file": b""}, {"home": "var/home"})
    folder = shared_dir()
    (folder / "note").write_text("mine\n")
    body = f"read -r word <{folder}/note; echo $word; : >{folder}/made; echo /sbridge-*\n"
    ran = job(script(body, made, header=f"#K8S_RUNTIME={runtime}\n"))
    assert ran.wait() == "COMPLETED", ran.err
    assert ran.out == "mine\n/sbridge-*\n"  # and nothing is left of where it was mounted first
    assert (folder / "made").exists()


@pytest.mark.parametrize("runtime", ["kubernetes", "podman"])
def test_an_image_with_a_file_where_a_folder_must_be_fails_its_job(cluster, job, image, runtime):
    made = image("flat-home", {"home": b"a file"}, {})
    ran = job(script("echo ran\n", made, header=f"#K8S_RUNTIME={runtime}\n"))
    assert ran.end == ("FAILED", "1:0"), ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"sbridge: the sandbox with image {made} cannot be made: /home must")
    assert cluster.job_field(ran.job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}
