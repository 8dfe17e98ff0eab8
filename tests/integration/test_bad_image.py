"""An image that cannot become a sandbox costs its own job, whatever it makes podman say."""

import hashlib
import io
import json
import tarfile

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def submit(cluster, shared_dir):
    """Submit a job with an image; returns its id and where its stderr goes."""

    def submit(image):
        err = shared_dir("alice") / "err"
        text = f"#!/bin/bash\n#SBATCH --mem=200\n#K8S_IMAGE={image}\necho ran\n"
        return cluster.sbatch("alice", text, "-o", "/dev/null", "-e", str(err)), err

    return submit


@pytest.fixture
def make_image(cluster, tmp_path):
    """Make an image of one file or link, and remove it in the end."""
    made = []

    def make(entry, *changes):
        name = f"localhost/bad-{len(made)}:1"
        archive = tmp_path / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.addfile(entry, io.BytesIO())
        words = [f"--change={change}" for change in changes]
        cluster.podman("import", "--quiet", *words, str(archive), name)
        made.append(name)
        return name

    yield make
    for name in made:
        cluster.podman("rmi", "--force", name)


@pytest.fixture
def load_image(cluster, tmp_path):
    """Load an image without files that has these variables, and remove it in the end."""
    name = "localhost/bad-variables:1"

    def load(*variables):
        layer = io.BytesIO()
        tarfile.open(fileobj=layer, mode="w").close()
        digest = hashlib.sha256(layer.getvalue()).hexdigest()
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": list(variables)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        listed = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        files = {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer.getvalue(),
            "manifest.json": json.dumps(listed).encode(),
        }
        archive = tmp_path / "saved.tar"
        with tarfile.open(archive, "w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        cluster.podman("load", "--quiet", f"--input={archive}")
        return name

    yield load
    cluster.podman("rmi", "--force", name)


def link(path, target):
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize(
    ("entry", "changes", "why"),
    [
        (tarfile.TarInfo("v/conmon"), ["VOLUME /v/conmon"], "/v/conmon"),
        (tarfile.TarInfo("v/conmon"), ["VOLUME /v/conmon/x"], "/v/conmon/x: not a directory"),
        (link("home", "/proc/self/conmon"), [], "/home must be a folder there"),
    ],
    ids=["volume on a file", "volume below a file", "home is a link"],
)
def test_an_image_that_speaks_of_conmon_fails_its_job_alone(
    cluster, make_image, submit, entry, changes, why
):
    job_id, err = submit(make_image(entry, *changes))
    assert cluster.wait_job(job_id) == "FAILED"
    told = err.read_text()
    assert "cannot be made: " in told
    assert why in told
    assert cluster.job_field(job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}


@pytest.mark.parametrize("name", ["conmon:1", f"x/conmon:t@{DIGEST}"])
def test_an_image_called_like_a_part_of_podman_waits_for_its_registry(cluster, submit, name):
    job_id, err = submit(f"127.0.0.1:1/{name}")
    cluster.wait_for(lambda: err.exists() and b"trying again" in err.read_bytes())
    assert "connection refused" in err.read_text()
    assert cluster.drained_nodes() == {}
    cluster.scancel(job_id)
    cluster.wait_for(lambda: cluster.job_state(job_id) == "CANCELLED", timeout=15)
    assert cluster.drained_nodes() == {}


def test_an_image_with_a_variable_that_no_program_can_be_started_with_fails_its_job(
    cluster, load_image, submit
):
    image = load_image("WORDS=" + "x" * 128 * 1024)
    job_id, err = submit(image)
    assert cluster.wait_job(job_id) == "FAILED"
    last = err.read_text().splitlines()[-1]
    assert last.startswith(f"sbridge: the sandbox with image {image} cannot be made: ")
    assert "128 KiB" in last
    assert cluster.job_field(job_id, "Restarts") == "0"
    assert cluster.drained_nodes() == {}
