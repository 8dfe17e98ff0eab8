"""Pods that an administrator makes at a terminal: a trial of a sandbox, and images for nodes."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.prepared_site import SLURM_NODE, USER, PreparedSite
from tests.integration.running_cluster import Completed, checked, wait_for
from tests.integration.running_kubernetes import IMAGES, Kubernetes

pytestmark = pytest.mark.kubernetes

# Nobody listens there, which a kubelet takes for a registry that is away.
AWAY = "127.0.0.1:9/away"


@pytest.fixture(scope="module")
def prepared(kubernetes: Kubernetes) -> Iterator[PreparedSite]:
    """Give a site that two commands prepared."""
    folder = Path(tempfile.mkdtemp(prefix="sbridge-site-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = PreparedSite(kubernetes, folder, "trials")
    made.prepare()
    yield made
    made.remove()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_stays(prepared: PreparedSite) -> Iterator[None]:
    """Whatever a test does, its commands leave no pod and no folder."""
    yield
    assert prepared.pods() == []
    assert not (prepared.folder / "spool").exists()


def trial(prepared: PreparedSite, image: str, *options: str) -> Completed:
    """Try a pod with the agent's own credentials, which are enough for it."""
    argv = ["kubernetes", "pod", "--apply", f"--node={SLURM_NODE}", f"--user={USER}"]
    return prepared.sbridge(*argv, f"--image={image}", *options, is_administrator=False)


def test_a_trial_shows_phases_and_events_until_the_pod_runs(prepared: PreparedSite) -> None:
    ended = trial(prepared, f"{IMAGES}/alpine", "--cpus=1", "--memory=64M")
    told = [line.partition(" s  ")[2] for line in checked(ended).splitlines()]
    assert told[0] == "pod slurm-job-0 was created in namespace trials"
    assert any(line.startswith("event Scheduled: ") for line in told)
    assert told[-3:] == ["phase Running: it runs", "removing it", "it is gone"]


def test_an_image_without_a_shell_runs_too(prepared: PreparedSite) -> None:
    assert "phase Running: it runs" in checked(trial(prepared, f"{IMAGES}/static"))


@pytest.mark.parametrize(
    ("image", "options", "reason"),
    [
        (f"{IMAGES}/none", [], f"image {IMAGES}/none cannot be pulled: "),
        (f"{IMAGES}/alpine", ["--cpus=900", "--timeout=2"], "waiting for room on its Kubernetes"),
        (AWAY, ["--timeout=3"], f"does not run after 3 s: waiting for the registry of {AWAY}"),
    ],
)
def test_a_pod_that_does_not_run_says_why(
    prepared: PreparedSite, image: str, options: list[str], reason: str
) -> None:
    ended = trial(prepared, image, *options)
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert ended.stdout.splitlines()[-1].endswith("it is gone")


def test_a_trial_of_a_job_that_is_there_leaves_it_alone(prepared: PreparedSite) -> None:
    real = prepared.printed_pod(f"--image={IMAGES}/static", "--job-id=5")
    prepared.agent.create(prepared.path("pods"), real)
    try:
        ended = trial(prepared, f"{IMAGES}/static", "--job-id=5")
        assert ended.returncode == 1
        assert "pod slurm-job-5 is there already" in ended.stderr
        assert prepared.pods() == ["slurm-job-5"]
    finally:
        prepared.agent.delete(prepared.path("pods/slurm-job-5"), grace_s=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_stops_a_trial_finds_nothing_left(
    prepared: PreparedSite, number: signal.Signals
) -> None:
    argv = ["kubernetes", "pod", "--apply", f"--node={SLURM_NODE}", f"--user={USER}"]
    ended = prepared.interrupted(*argv, f"--image={AWAY}", number=number, when=prepared.pods)
    assert ended.returncode == 128 + number
    assert "what was made is being removed" in ended.stderr


def test_what_a_killed_trial_leaves_has_a_deadline(prepared: PreparedSite) -> None:
    argv = ["kubernetes", "pod", "--apply", f"--node={SLURM_NODE}", f"--user={USER}"]
    options = [f"--image={AWAY}", "--timeout=10", "--job-id=8"]
    killed = prepared.interrupted(*argv, *options, number=signal.SIGKILL, when=prepared.pods)
    assert killed.returncode == -signal.SIGKILL
    (left,) = prepared.kubernetes.get("pods", "--namespace=trials")["items"]
    assert left["spec"]["activeDeadlineSeconds"] == 70
    prepared.agent.delete(prepared.path("pods/slurm-job-8"), grace_s=0)
    shutil.rmtree(prepared.folder / "spool")


# --- images ---


def pull(prepared: PreparedSite, *names: str, nodes: str = SLURM_NODE) -> Completed:
    return prepared.sbridge("images", "pull", f"--nodes={nodes}", "--timeout=5", *names)


def test_images_of_any_kind_are_brought_to_a_node(prepared: PreparedSite) -> None:
    node = prepared.kubernetes.nodes[0]
    names = [f"{IMAGES}/alpine", f"{IMAGES}/static", f"{IMAGES}/bash"]
    *results, last = checked(pull(prepared, *names)).splitlines()
    assert last == "3 of 3 are there."
    for name, line in zip(names, results, strict=True):
        assert line.startswith(f"{node}  {name}  pulled in ")
        assert line.endswith(" MiB")

    def is_listed() -> bool:
        """Kubelets look at their images every half minute."""
        options = ["--image=*/bash:*", f"--nodes={SLURM_NODE}"]
        shown = checked(prepared.sbridge("images", "list", *options))
        return f"{IMAGES}/bash:latest  {node}" in shown

    wait_for(is_listed, 90, "the kubelet has reported the image")


def test_an_image_that_is_not_there_fails_and_the_others_come(prepared: PreparedSite) -> None:
    ended = pull(prepared, f"{IMAGES}/none", AWAY, "not//a//name", f"{IMAGES}/alpine")
    assert ended.returncode == 1
    lines = [line.partition("  ")[2] for line in ended.stdout.splitlines()]
    assert lines[0].startswith(f"{IMAGES}/none  FAILED: image {IMAGES}/none cannot be pulled: ")
    assert lines[1].startswith(f"{AWAY}  FAILED: not there after 5 s: waiting for the registry")
    assert lines[2].startswith("not//a//name  FAILED: image not//a//name cannot be used")
    assert lines[3].startswith(f"{IMAGES}/alpine  pulled in ")
    assert ended.stdout.splitlines()[-1] == "1 of 4 are there."


def test_slurm_nodes_that_share_a_kubernetes_node_fetch_once(prepared: PreparedSite) -> None:
    text = prepared.config_file.read_text()
    node = prepared.kubernetes.nodes[0]
    other = prepared.folder / "shared.toml"
    other.write_text(text.replace(f'"{SLURM_NODE}={node}"', f'"n[1-3]={node}"'))
    arguments = [f"--config={other}", "--nodes=n[1-3]", f"{IMAGES}/static"]
    ended = prepared.sbridge("images", "pull", *arguments)
    assert checked(ended).splitlines()[-1] == "1 of 1 are there."


def test_a_cordoned_node_fetches_images_and_one_with_a_taint_fails_at_once(
    prepared: PreparedSite,
) -> None:
    node = prepared.kubernetes.nodes[0]
    prepared.kubernetes.kubectl("cordon", node)
    try:
        checked(pull(prepared, f"{IMAGES}/static"))
        prepared.kubernetes.kubectl("taint", "node", node, "mine=yes:NoSchedule")
        ended = pull(prepared, f"{IMAGES}/static")
        assert ended.returncode == 1
        assert "FAILED: has taints that kubernetes.tolerations does not name: mine=" in ended.stdout
    finally:
        prepared.kubernetes.kubectl("uncordon", node)
        prepared.kubernetes.try_kubectl("taint", "node", node, "mine-")


def test_whoever_stops_a_pull_finds_nothing_left(prepared: PreparedSite) -> None:
    argv = ["images", "pull", f"--nodes={SLURM_NODE}", AWAY, f"{IMAGES}/alpine"]
    ended = prepared.interrupted(*argv, number=signal.SIGINT, when=prepared.pods)
    assert ended.returncode == 130
    assert "0 of 2 are there." in ended.stdout
