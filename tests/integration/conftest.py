"""A real Slurm with sbridge for the tests: scripts/dev-cluster in a state folder of its own.

`cluster` is brought up once for all tests. A test or module that needs other options says so with
    pytest.mark.parametrize("cluster", [Options(runtime="host")], indirect=True)
where `Options` may be a plain dict; the cluster is then changed to them.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_OPTIONS = {"nodes": 2, "runtime": "podman", "proctrack": "cgroup"}
# Fields of `scontrol show job` that take a line of their own and may hold blanks.
LINE_FIELDS = {"Comment", "AdminComment", "Command", "WorkDir", "StdIn", "StdOut", "StdErr"}
ENDED = set("BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY TIMEOUT".split())


def wait_until(condition: Callable[[], object], timeout_s: float, what: str = "") -> None:
    """Wait for a condition to be true; a test fails when that takes longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not true within {timeout_s:g} s: {what or condition}", pytrace=True)
        time.sleep(0.05)


@dataclass
class Cluster:
    """A running development cluster. Text in and out is UTF-8; other bytes survive in both ways."""

    state: Path
    script: Path = REPOSITORY / "scripts" / "dev-cluster"

    def run(self, *argv: str, data: str | bytes = b"", timeout_s: float = 120) -> "Ran":
        """Run scripts/dev-cluster with these arguments."""
        environment = {**os.environ, "SBRIDGE_DEV_STATE": str(self.state)}
        return run([str(self.script), *argv], data, environment, timeout_s)

    def up(self, **options: object) -> str:
        """Bring it up, or to other options; return what was printed."""
        words = [f"--{name}={value}" for name, value in options.items()]
        return self.run("up", *words, timeout_s=900).checked().stdout

    @property
    def nas(self) -> Path:
        return self.state / "nas"

    @property
    def submit(self) -> Path:
        return self.nas / "slurm-jobs/submit"

    @property
    def processed(self) -> Path:
        return self.nas / "slurm-jobs/processed"

    @property
    def failed(self) -> Path:
        return self.nas / "slurm-jobs/failed"

    @property
    def results(self) -> Path:
        return self.nas / "results"

    @property
    def prefix(self) -> Path:
        return self.state / "prefix"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def spool(self) -> Path:
        """agent.spool_dir: <spool>/<node>/jobs/…"""
        return self.state / "spool/sbridge"

    @property
    def nodes(self) -> list[str]:
        return self.slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%N").split()

    def agent_socket(self, node: str) -> Path:
        return self.state / "run/agent" / node / "agent.sock"

    def pid(self, daemon: str) -> int:
        """Return the pid of slurmctld, slurmd-<node>, agent-<node>, watcher, …"""
        rows = [line.split() for line in self.run("status").stdout.splitlines()]
        return next(int(row[3]) for row in rows if row[:2] == [daemon, "up"])

    def as_user(
        self, user: str, argv: Sequence[str], data: str | bytes = b"", timeout_s: float = 60
    ) -> "Ran":
        """Run a command as alice, bob or root, at home, with the cluster's environment."""
        return self.run("as", user, *argv, data=data, timeout_s=timeout_s)

    def slurm(self, *argv: str) -> str:
        """Run a Slurm command as root and return what it printed."""
        environment = {**os.environ, "SLURM_CONF": str(self.state / "etc/slurm.conf")}
        return run(argv, b"", environment, 60).checked().stdout

    def podman(self, *argv: str) -> str:
        """Run podman on the sandboxes' storage and return what it printed."""
        storage = self.state / "podman"
        options = [f"--root={storage}/root", f"--runroot={storage}/run"]
        environment = {**os.environ, "CONTAINERS_CONF": str(self.state / "etc/containers.conf")}
        command = ["podman", *options, "--cgroup-manager=cgroupfs", *argv]
        return run(command, b"", environment, 60).checked().stdout

    def sbatch(self, user: str, script: str | bytes, *options: str) -> int:
        """Submit a script and return the job's id."""
        ran = self.as_user(user, ["sbatch", "--parsable", *options], script)
        return int(ran.checked().stdout.split(";")[0])

    def batch_script(self, job_id: int) -> str:
        """Return the script as slurmctld keeps it."""
        return self.slurm("scontrol", "write", "batch_script", str(job_id), "-")

    def job_field(self, job_id: int, name: str) -> str:
        """Return one field of `scontrol show job`, "" when the job has none of that name."""
        text = self.slurm("scontrol", "show", "job", str(job_id))
        value = r"[^\n]*" if name in LINE_FIELDS else r"\S*"
        found = re.search(rf"(?:^|\s){name}=({value})", text)
        return found[1].rstrip() if found else ""

    def job_state(self, job_id: int) -> str:
        """Return a job's state, "" while Slurm does not know it."""
        command = ["squeue", "-h", "-t", "all", "-j", str(job_id), "-o", "%T"]
        squeue = self.as_user("root", command)
        if squeue.code == 0 and squeue.stdout:
            return squeue.stdout.split()[0]
        words = self.slurm("sacct", "-nXP", "-j", str(job_id), "-o", "State").split()
        return words[0] if words else ""

    def wait_job(
        self, job_id: int, states: str | Collection[str] = "COMPLETED", timeout_s: float = 60
    ) -> str:
        """Wait until a job is in (one of) these states; fail at once when it ended otherwise."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout_s
        while (state := self.job_state(job_id)) not in wanted:
            if state in ENDED or time.monotonic() > deadline:
                about = self.slurm("scontrol", "show", "job", str(job_id))
                pytest.fail(f"job {job_id} is {state or 'unknown'}, not {wanted}:\n{about}")
            time.sleep(0.1)
        return state

    def wait_for(
        self, condition: Callable[[], object], timeout_s: float = 30, what: str = ""
    ) -> None:
        """Wait for a condition to be true; fail when that takes longer."""
        wait_until(condition, timeout_s, what)

    def drop(self, user: str, name: str, data: str | bytes, *, rename: bool = True) -> Path:
        """Put a file into submit/ as that user: renamed into place, or written there."""
        path = self.submit / name
        script = 'cat >"$1.part" && mv "$1.part" "$2"' if rename else 'cat >"$2"'
        hidden = str(path.with_name(f".{name}"))
        self.as_user(user, ["sh", "-c", script, "drop", hidden, str(path)], data).checked()
        return path


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    argv: Sequence[str]
    code: int
    stdout: str
    stderr: str

    def checked(self) -> "Ran":
        """Fail the test unless the exit code is 0."""
        if self.code != 0:
            pytest.fail(f"{self.argv}: exit code {self.code}\n{self.stdout}{self.stderr}")
        return self


def run(
    argv: Sequence[str], data: str | bytes, environment: dict[str, str], timeout_s: float
) -> Ran:
    """Run a command with `data` on its stdin."""
    given = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    ended = subprocess.run(
        argv, input=given, env=environment, capture_output=True, timeout=timeout_s, check=False
    )
    out, err = (part.decode("utf-8", "surrogateescape") for part in (ended.stdout, ended.stderr))
    return Ran(argv, ended.returncode, out, err)


@pytest.fixture(scope="session")
def new_cluster() -> Iterator[Callable[[], Cluster]]:
    """Give clusters that are not up yet; whatever they become, they are down and gone at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it starts daemons and makes users and cgroups")
    made: list[Cluster] = []

    def make() -> Cluster:
        # Not below pytest's own tmp_path: users must reach it, and sockets allow few characters.
        state = Path(tempfile.mkdtemp(prefix="sbridge-", dir="/var/tmp"))  # noqa: S108
        state.chmod(0o755)
        made.append(Cluster(state))
        return made[-1]

    yield make
    ended = [cluster.run("down", "--purge") for cluster in made]
    for cluster in made:
        shutil.rmtree(cluster.state, ignore_errors=True)
    assert not [ran for ran in ended if ran.code != 0]


@pytest.fixture(scope="session")
def _the_cluster(new_cluster: Callable[[], Cluster]) -> Cluster:
    return new_cluster()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, _the_cluster: Cluster) -> Cluster:
    """Give a running cluster with the options that the test asks for."""
    _the_cluster.up(**{**DEFAULT_OPTIONS, **getattr(request, "param", {})})
    return _the_cluster


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Give `wait_until`: test modules cannot import it from here."""
    return wait_until
