"""Who is to blame when podman fails; the sentences are podman 4.3.1's own."""

import json
import subprocess
import threading
from dataclasses import dataclass, field

import pytest

from bridge.config import Podman
from bridge.errors import NodeError, TemporaryError
from bridge.job_spool import JobSpool, RunId
from bridge.runtimes import first_process
from bridge.runtimes.podman import PodmanRuntime
from bridge.runtimes.sandbox import SandboxSpec, UserError

PINGING = "initializing source docker://{image}: pinging container registry {host}: Get"
DIGEST = "sha256:" + "a" * 64
CONTAINER = "5088a5fc3f7a3504dda55f625f75d25dd0e8d36bcab996fc8431aa6b051fcdba"
STORAGE = "/var/lib/containers/storage"
COUNT = "\nError: failed to start 1 containers"
RUNC = (
    f"starting container {CONTAINER}: runc: runc create failed: unable to start container process"
)
CONMON = [
    f'{RUNC}: error during container init: error mounting "{STORAGE}/volumes/e61b/_data" to rootfs '
    f'at "/v/conmon": mount {STORAGE}/volumes/e61b/_data:/v/conmon (via /proc/self/fd/6), flags: '
    f"0x5006: not a directory: OCI runtime error{COUNT}",
    f"starting container {CONTAINER}: identifying source directory for copy up into volume 8e96: "
    f"lstat {STORAGE}/overlay/7672/merged/v/conmon/x: not a directory{COUNT}",
    f'{RUNC}: error during container init: error mounting "/home" to rootfs at "/home": '
    f'"{STORAGE}/overlay/0070/merged/proc/self/conmon" cannot be mounted because it is inside '
    f"/proc: OCI runtime error{COUNT}",
]
SOUND = {"host": {"ociRuntime": {"name": "runc"}, "conmon": {"path": "/usr/bin/conmon"}}}


@dataclass
class Listener:
    """Waits for a sandbox and keeps what it is told."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    told: list[str] = field(default_factory=list)

    def say(self, text):
        self.told.append(text)


@pytest.fixture
def runtime(command, open_dir):
    """Give a runtime whose podman is a shell script of the test; $1 is its subcommand."""

    def runtime(body, **settings):
        (open_dir / "facts").write_text(
            json.dumps({**SOUND, "store": {"graphRoot": str(open_dir)}})
        )
        command("podman", f"here={open_dir}\nshift\n{body}")
        usual = {"command": str(open_dir / "podman"), "global_options": ("--root=/x",)}
        return PodmanRuntime(Podman(**(usual | settings)), "n1", threading.Semaphore())

    return runtime


@pytest.fixture
def start(runtime, open_dir):
    """Start a sandbox with a podman that fails like this; return the error."""

    def start(body, image="r.io/x", waiter=None, **settings):
        spec = SandboxSpec(
            "slurm-job-1", RunId(1, 0), "n1", image, 1000, 1000, (), "u", "a", "p", 0, 0, (), True
        )
        with pytest.raises(Exception) as caught:  # noqa: PT011
            runtime(body, **settings).start(spec, JobSpool(open_dir), waiter or Listener())
        return caught.value

    return start


def failing(stderr, *, has_image=False, info='cat "$here/facts"'):
    """Return a podman that fails with these words, to start an image or else to pull it."""
    lacks = 'echo "Error: r.io/x: image not known" >&2; exit 125'
    return f"""case $1 in
    info) {info}; exit ;;
    kube) {"" if has_image else lacks} ;;
esac
cat >&2 <<'EOF'\n{stderr}\nEOF
exit 125"""


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
        ("r.io/x", "Error: reading manifest latest in r.io/x: manifest unknown", UserError),
        ("r.io/conmon:1", "Error: reading manifest 1 in r.io/conmon:1: denied", UserError),
        (
            f"127.0.0.1:1/x/conmon:t@{DIGEST}",
            f"Error: initializing source docker://127.0.0.1:1/x/conmon@{DIGEST}: pinging container "
            'registry 127.0.0.1:1: Get "https://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: '
            "connection refused",
            TemporaryError,
        ),
        (
            f"r.io/x/conmon:t@{DIGEST}",
            f"Error: initializing source docker://r.io/x/conmon@{DIGEST}: reading manifest: denied",
            UserError,
        ),
        ("r.io/x", "Error: reading manifest: denied: statfs / boltdb storage-driver", UserError),
        (
            "r.io/x",
            f"Error: {PINGING} x509: certificate is valid for conmon.boltdb, not r.io",
            UserError,
        ),
        ("r.io/x", "Error: writing blob: no space left on device", TemporaryError),
    ],
)
def test_no_words_about_a_pull_are_held_against_a_sound_node(start, image, stderr, kind):
    assert type(start(failing(stderr), image)) is kind


@pytest.mark.parametrize("stderr", CONMON)
def test_no_content_of_an_image_is_held_against_a_sound_node(start, stderr):
    error = start(failing(stderr, has_image=True))
    assert type(error) is UserError
    assert "conmon" in error.message
    assert "failed to start 1" not in error.message


def test_whatever_podman_says_an_unsound_node_is_to_blame(start):
    broken = "echo 'Error: mounting storage: input/output error' >&2; exit 125"
    error = start(failing("Error: reading manifest: denied", info=broken))
    assert type(error) is NodeError
    assert error.message == "podman does not work: mounting storage: input/output error"


def test_a_podman_that_is_not_there_is_the_nodes_fault(start):
    error = start("exit 1", command="/no/such/podman")
    assert type(error) is NodeError
    assert "/no/such/podman cannot be started (No such file or directory)" in error.message


def test_a_podman_that_hangs_is_the_nodes_fault(start):
    error = start("exec sleep 9", timeout_s=0.3)
    assert type(error) is NodeError
    assert "did not end within 0.3 s" in error.message


def test_a_sandbox_that_takes_too_long_is_tried_again_on_a_sound_node(start):
    error = start('[ "$1" = info ] && exec cat "$here/facts"; exec sleep 9', timeout_s=1.0)
    assert type(error) is TemporaryError
    assert "did not end within 1 s" in error.message


def test_a_podman_that_was_killed_is_started_again_on_a_sound_node(start):
    error = start('[ "$1" = info ] && exec cat "$here/facts"; kill -9 $$')
    assert type(error) is TemporaryError
    assert "SIGKILL" in error.message


def test_of_a_cancelled_job_nothing_is_asked_and_nobody_is_to_blame(start, open_dir):
    waiter = Listener()
    waiter.cancelled.set()
    error = start(failing("", info='touch "$here/asked"; exit 1'), waiter=waiter)
    assert type(error) is TemporaryError
    assert not (open_dir / "asked").exists()


def test_an_old_sandbox_that_stays_is_not_held_against_a_sound_node(start):
    body = """case "$1 $2" in
    "pod exists") ;;
    "info --format") cat "$here/facts" ;;
    *) echo "Error: pod already exists" >&2; exit 125 ;;
esac"""
    error = start(body)
    assert type(error) is TemporaryError
    assert "slurm-job-1 cannot be removed" in error.message


@pytest.mark.parametrize(
    ("exit_code", "kind", "words"),
    [
        (137, TemporaryError, "ended at once: exit code 137"),
        (1, UserError, "cannot be made: its first process cannot be started (exit code 1)"),
    ],
    ids=["killed", "not started"],
)
def test_a_sandbox_that_ends_while_it_is_looked_at_is_tried_again_if_it_was_killed(
    start, monkeypatch, exit_code, kind, words
):
    def is_over(process):
        raise ProcessLookupError

    monkeypatch.setattr(first_process, "await_init", is_over)
    error = start(f'case $1 in container) echo "c 1 []" ;; wait) echo {exit_code} ;; esac')
    assert type(error) is kind
    assert words in error.message


def test_what_has_the_pid_of_a_container_that_ended_is_not_taken_for_its_init(start):
    argv = ["bash", "-c", "exec -a /sbridge/init sleep 60"]
    with subprocess.Popen(argv) as others:
        try:
            error = start(
                f'case $1 in container) echo "c {others.pid} []" ;; wait) echo 137 ;; esac'
            )
        finally:
            others.kill()
    assert type(error) is TemporaryError
    assert "ended at once: exit code 137" in error.message


def test_a_podman_that_opens_its_storage_on_a_disk_with_room_works(runtime):
    runtime('[ "$1" = info ] && cat "$here/facts"').check()


def test_a_podman_that_finds_no_program_does_not_work(runtime):
    said = 'Error: default OCI runtime "runc" not found: invalid argument'
    with pytest.raises(NodeError, match='podman does not work: default OCI runtime "runc" not'):
        runtime(f"echo '{said}' >&2; exit 125").check()


@pytest.mark.parametrize("missing", ["ociRuntime", "conmon"])
def test_a_podman_that_cannot_run_its_program_does_not_work(runtime, missing):
    said = "getting version of OCI runtime runc: `/usr/bin/runc --version` failed"
    facts = json.dumps({"host": {**SOUND["host"], missing: None}, "store": {"graphRoot": "/"}})
    line = f'time="now" level=error msg="{said}"'
    with pytest.raises(NodeError, match=f"podman does not work: .*{missing}.*--version. failed"):
        runtime(f"echo '{facts}'; echo '{line}' >&2").check()


@pytest.mark.parametrize("said", ["", "[]", "{}", "no JSON"])
def test_a_podman_that_tells_nothing_of_itself_does_not_work(runtime, said):
    with pytest.raises(NodeError, match="podman does not work: "):
        runtime(f"echo '{said}'").check()


def test_a_storage_that_cannot_be_written_does_not_work(runtime):
    facts = json.dumps({**SOUND, "store": {"graphRoot": "/no/such/storage"}})
    with pytest.raises(NodeError, match="/no/such/storage cannot be written"):
        runtime(f"echo '{facts}'").check()
