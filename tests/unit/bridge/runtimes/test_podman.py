"""Who is to blame for what podman says; the sentences are podman 4.3.1's own."""

import threading

import pytest

from bridge.config import Podman
from bridge.errors import CommandError, NodeError, TemporaryError
from bridge.runtimes.podman import PodmanRuntime, _blame
from bridge.runtimes.sandbox import UserError

PINGING = "initializing source docker://{image}: pinging container registry {host}: Get"


@pytest.mark.parametrize(
    ("image", "stderr", "kind"),
    [
        (
            "nosuch:1",
            'Error: short-name "nosuch:1" did not resolve to an alias and no unqualified-search '
            'registries are defined in "/etc/containers/registries.conf"',
            UserError,
        ),
        ("BAD//x", "Error: invalid reference format", UserError),
        (
            "localhost/nosuch:1",
            f"Error: {PINGING} dial tcp 127.0.0.1:443: connect: connection refused",
            UserError,
        ),
        (
            "nas-hub.local:5407/x",
            f"Error: {PINGING} dial tcp 127.0.0.1:5407: connect: connection refused",
            TemporaryError,
        ),
        ("r.io/x", f"Error: {PINGING} dial tcp: lookup r.io: no such host", UserError),
        ("r.io/x", f"Error: {PINGING} net/http: TLS handshake timeout", TemporaryError),
        ("r.io/x", "Error: reading manifest latest in r.io/x: manifest unknown", UserError),
        ("r.io/conmon:1", "Error: reading manifest 1 in r.io/conmon:1: denied", UserError),
        ("r.io/x", "Error: writing blob: no space left on device", NodeError),
    ],
)
def test_podmans_words_tell_who_is_to_blame(image, stderr, kind):
    error = CommandError(["podman", "pull"], 125, stderr, "ended with exit code 125")
    assert type(_blame(error, image, "slurm-job-1")) is kind


def test_a_podman_that_is_not_there_is_the_nodes_fault():
    error = CommandError(["podman"], None, "", "cannot be started (No such file or directory)")
    assert type(_blame(error, "r.io/x", "slurm-job-1")) is NodeError


@pytest.fixture
def runtime(command, open_dir):
    """Give a runtime whose podman is a shell script of the test."""

    def runtime(body):
        command("podman", body)
        settings = Podman(command=str(open_dir / "podman"), global_options=("--root=/x",))
        return PodmanRuntime(settings, "n1", threading.Semaphore())

    return runtime


def test_a_podman_that_opens_its_storage_on_a_disk_with_room_works(runtime, open_dir):
    runtime(f'[ "$1 $2" = "--root=/x info" ] && echo {open_dir}').check()


def test_a_podman_that_finds_no_program_does_not_work(runtime):
    said = 'Error: default OCI runtime "runc" not found: invalid argument'
    with pytest.raises(NodeError, match='podman does not work: default OCI runtime "runc" not'):
        runtime(f"echo '{said}' >&2; exit 125").check()


def test_a_storage_that_cannot_be_written_does_not_work(runtime):
    with pytest.raises(NodeError, match="/no/such/storage cannot be written"):
        runtime("echo /no/such/storage").check()
