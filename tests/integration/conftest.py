"""A real Slurm with sbridge for the tests: scripts/dev-cluster in a state folder of its own.

`cluster` is brought up once for all tests. A test or module that needs other options says so:

    pytestmark = pytest.mark.parametrize("cluster", [{"runtime": "host"}], indirect=True)

`--slurm 24.11` gives it that release of Slurm instead of the installed one, `--auth slurm` has that
do without munge.

`kubernetes` is a real Kubernetes of scripts/kubernetes, brought up once too, and
`slurm_on_kubernetes` a cluster on top of it: the `cluster` of modules that say `ON_PODS`.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.integration.running_cluster import Cluster
from tests.integration.running_kubernetes import Kubernetes
from tests.integration.slurm_on_kubernetes import SlurmOnKubernetes
from tests.integration.submitted_job import Held, Submitted, script

DEFAULT_OPTIONS = {
    "nodes": 2,
    "runtime": "podman",
    "proctrack": "cgroup",
    "gpus": 0,
    "gpu-kind": "whole",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slurm", metavar="RELEASE", help="Slurm's release, such as 24.11")
    parser.addoption("--auth", metavar="KIND", help="how Slurm knows who asks: munge or slurm")
    parser.addoption(
        "--whole-table",
        action="store_true",
        help="run every row of test_fidelity.py in every place, which takes an hour",
    )


def _state_folder() -> Path:
    # Not below pytest's own tmp_path: users must reach it, and sockets allow few characters.
    state = Path(tempfile.mkdtemp(prefix="sbridge-", dir="/var/tmp"))
    state.chmod(0o755)
    return state


@pytest.fixture(scope="session")
def new_cluster() -> Iterator[Callable[[], Cluster]]:
    """Give clusters that are not up yet; whatever they become, they are gone at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts daemons and makes users and cgroups")
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster(_state_folder()))
        return made[-1]

    yield make
    ended = [cluster.dev_cluster("down", "--purge") for cluster in made]
    for cluster in made:
        shutil.rmtree(cluster.state, ignore_errors=True)
    left = [down.stdout + down.stderr for down in ended if down.returncode != 0]
    assert not left, "\n".join(left)


@pytest.fixture(scope="session")
def _shared_cluster(new_cluster: Callable[[], Cluster]) -> Cluster:
    return new_cluster()


@pytest.fixture(scope="session")
def slurm_options(request: pytest.FixtureRequest) -> dict[str, str]:
    """Give what the command line asks of every cluster's Slurm."""
    asked = {name: request.config.getoption(f"--{name}") for name in ("slurm", "auth")}
    return {name: value for name, value in asked.items() if value}


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, slurm_options: dict[str, str]) -> Cluster:
    """Give a running cluster with the options that the test asks for."""
    options = {**DEFAULT_OPTIONS, **slurm_options, **getattr(request, "param", {})}
    is_on_pods = options["runtime"] == "kubernetes"
    name = "slurm_on_kubernetes" if is_on_pods else "_shared_cluster"
    found: Cluster = request.getfixturevalue(name)
    if not is_on_pods:
        found.up(**options)
    return found


@pytest.fixture
def clean_afterwards(cluster: SlurmOnKubernetes) -> Iterator[None]:
    """End the test's jobs, and wait until they have left nothing."""
    yield
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_until_clean()


@pytest.fixture(scope="session")
def new_kubernetes() -> Iterator[Callable[[], Kubernetes]]:
    """Give Kubernetes clusters that are not up yet; they are gone at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts daemons and makes mounts and cgroups")
    made: list[Kubernetes] = []

    def make() -> Kubernetes:
        # Not below pytest's own tmp_path: the names of sockets allow few characters.
        made.append(Kubernetes(Path(tempfile.mkdtemp(prefix="sbridge-k8s-", dir="/var/tmp"))))
        return made[-1]

    yield make
    ended = [each.command("down", "--purge") for each in made]
    for each in made:
        shutil.rmtree(each.state, ignore_errors=True)
    left = [down.stdout + down.stderr for down in ended if down.returncode != 0]
    assert not left, "\n".join(left)


@pytest.fixture(scope="session")
def kubernetes(new_kubernetes: Callable[[], Kubernetes]) -> Kubernetes:
    """Give a running Kubernetes with one node, for tests that leave it as it was."""
    made = new_kubernetes()
    made.up()
    return made


@pytest.fixture(scope="session")
def slurm_on_kubernetes(kubernetes: Kubernetes) -> Iterator[SlurmOnKubernetes]:
    """Give a running cluster with two nodes, both on the one node of `kubernetes`."""
    made = SlurmOnKubernetes(_state_folder(), kubernetes=kubernetes)
    made.up(runtime="kubernetes", nodes=2)
    yield made
    down = made.dev_cluster("down", "--purge")  # before its Kubernetes ends
    shutil.rmtree(made.state, ignore_errors=True)
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture
def job(cluster: Cluster, shared_dir: Callable[..., Path]) -> Callable[..., Submitted]:
    """Submit a script as a user, with its streams in files that he has."""
    numbers = itertools.count()
    folders: dict[str, Path] = {}

    def job(text: str, *options: str, user: str = "alice") -> Submitted:
        folder = folders.get(user) or folders.setdefault(user, shared_dir(user))
        out, err = (folder / f"{next(numbers)}.{name}" for name in ("out", "err"))
        job_id = cluster.sbatch(user, text, f"--output={out}", f"--error={err}", *options)
        return Submitted(cluster, job_id, out, err)

    return job


@pytest.fixture
def held(job: Callable[..., Submitted], shared_dir: Callable[..., Path]) -> Callable[..., Held]:
    """Submit a job for an image that goes on, to exit code 7, when the test lets it."""
    numbers = itertools.count()
    folder = shared_dir()

    def held(image: str, *options: str) -> Held:
        go = folder / f"{next(numbers)}.go"
        body = f"echo ready; while [ ! -e {go} ]; do sleep 0.1; done; echo went on; exit 7\n"
        return Held(job(script(body, image), *options), go)

    return held


@pytest.fixture
def shared_dir(cluster: Cluster) -> Iterator[Callable[..., Path]]:
    """Make folders that belong to a user and that sandboxes see at the same place."""
    made: list[Path] = []

    def make(user: str = "alice") -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="test-", dir=cluster.home(user))))
        cluster.give(made[-1], user=user, mode=0o755)
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def replace_agent(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Have a node's agent run with texts of its settings replaced; without any, as usual again.

    `before` are words that its command line begins with; the environment is added.
    """
    started: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        while started:
            process = started.pop()
            process.terminate()
            process.wait()

    def replace_agent(
        node: str,
        *changes: tuple[str, str],
        before: Sequence[str | Path] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        end()
        if not changes:
            cluster.start_agents()
            return
        text = (cluster.state / "etc/sbridge.toml").read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        settings = tmp_path / "sbridge.toml"
        settings.write_text(text)
        began = cluster.agent_socket(node).stat().st_ino
        cluster.kill(f"agent-{node}")
        program = cluster.prefix / "venv/bin/sbridge-agent"
        argv = [*before, program, f"--config={settings}", f"--node={node}"]
        env = {**os.environ, **environment}
        with (tmp_path / "agent.out").open("wb") as log:
            null = subprocess.DEVNULL
            process = subprocess.Popen(argv, stdin=null, stdout=log, stderr=log, env=env)
        started.append(process)
        cluster.wait_for(lambda: cluster.agent_socket(node).stat().st_ino != began)

    yield replace_agent
    end()
    cluster.start_agents()
