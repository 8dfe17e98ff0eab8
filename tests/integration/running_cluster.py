"""What tests do with a running development cluster: as its users, as root, and to its daemons.

Text in and out is UTF-8; bytes that are none survive both ways (surrogateescape).
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from glob import glob  # pathlib's fails at what is removed meanwhile
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
# Fields of `scontrol show job` that take a line of their own and may hold blanks.
LINE_FIELDS = {
    *("Comment", "AdminComment", "Extra"),
    *("Command", "SubmitLine", "WorkDir", "StdIn", "StdOut", "StdErr"),
}
ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED "
    "NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT".split()
)

# What a start that takes more than two seconds is told with, on a busy machine.
SLOW_START = re.compile(
    rb"^sbridge: (?:starting|pulling|waiting for|the sandbox(?: is|es of)) .*\n", re.MULTILINE
)

Completed = subprocess.CompletedProcess[str]

_SHORTEST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


def wait_for(
    condition: Callable[[], object], timeout: float = 30, what: str | Callable[[], str] = ""
) -> None:
    """Wait for a condition to be true; the test fails when that takes longer, in seconds.

    `what` says what was waited for; a function says it when that did not come. To look takes a
    third of the time at most, and leaves the rest to those who are waited for.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        if ended > deadline:
            told = what() if callable(what) else what
            pytest.fail(f"not true within {timeout:g} s: {told or condition}")
        time.sleep(min(max(_SHORTEST_PAUSE_S, 2 * (ended - began)), _LONGEST_PAUSE_S))


def run(
    argv: Sequence[str],
    *,
    input: str | bytes | None = None,  # noqa: A002
    environment: dict[str, str] | None = None,
    timeout: float = 120,
) -> Completed:
    """Run a command with `input` on its stdin, and return how it ended."""
    data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input
    ended = subprocess.run(
        list(argv),
        input=data or b"",
        env={**os.environ, **(environment or {})},
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    streams = (part.decode("utf-8", "surrogateescape") for part in (ended.stdout, ended.stderr))
    return Completed(ended.args, ended.returncode, *streams)


def checked(ended: Completed) -> str:
    """Return what a command printed; the test fails unless its exit code was 0."""
    if ended.returncode != 0:
        command = " ".join(ended.args)[:500]
        said = (ended.stdout + ended.stderr)[-5000:]
        pytest.fail(f"{command}: exit code {ended.returncode}\n{said}")
    return ended.stdout


def own_stderr(path: Path) -> bytes:
    """Return what a job wrote to stderr, without what sbridge says of a slow start."""
    return SLOW_START.sub(b"", path.read_bytes())


def pod_cgroups() -> set[Path]:
    """Return the cgroups of all pods of this machine."""
    return {Path(path) for path in glob(f"{CGROUPS}/*/libpod_parent/*/")}


def _mountinfo(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class Cluster:
    """A cluster in its state folder; `script` is the dev-cluster that manages it."""

    state: Path
    script: Path = REPOSITORY / "scripts" / "dev-cluster"

    # --- scripts/dev-cluster ---

    def dev_cluster(
        self,
        *argv: str,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 120,
    ) -> Completed:
        """Run scripts/dev-cluster with these arguments."""
        command = [str(self.script), *argv]
        return run(command, input=input, environment=self.environment, timeout=timeout)

    @property
    def environment(self) -> dict[str, str]:
        """What names the cluster to scripts/dev-cluster."""
        return {"SBRIDGE_DEV_STATE": str(self.state)}

    def up(self, **options: object) -> str:
        """Bring it up, or to other options; return what was printed."""
        words = [f"--{name}={value}" for name, value in options.items()]
        return checked(self.dev_cluster("up", *words, timeout=900))

    def run_as(
        self,
        user: str,
        argv: Sequence[str],
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60,
    ) -> Completed:
        """Run a command as alice, bob or root, at home, with the cluster's environment."""
        return self.dev_cluster("as", user, *argv, input=input, timeout=timeout)

    def as_user(
        self,
        user: str,
        argv: Sequence[str],
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60,
    ) -> str:
        """Run a command that must succeed as that user, and return what it printed."""
        return checked(self.run_as(user, argv, input, timeout))

    # --- Where things are ---

    @property
    def slot(self) -> int:
        slot: int = json.loads((self.state / "cluster.json").read_text())["slot"]
        return slot

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

    def home(self, user: str) -> Path:
        return Path(pwd.getpwnam(user).pw_dir)

    def agent_socket(self, node: str) -> Path:
        return self.state / "run/agent" / node / "agent.sock"

    # --- Slurm ---

    @property
    def slurm_bin(self) -> Path:
        """Where Slurm's commands are."""
        settings = tomllib.loads((self.state / "etc/sbridge.toml").read_text())
        return Path(settings["slurm"]["bin_dir"])

    @property
    def slurm_environment(self) -> dict[str, str]:
        """What leads to this cluster's Slurm, and to the commands of its release."""
        path = f"{self.slurm_bin}:{os.environ['PATH']}"
        return {"SLURM_CONF": str(self.state / "etc/slurm.conf"), "PATH": path}

    @property
    def release(self) -> str:
        """Slurm's release, such as 24.11."""
        said = self.slurm("sbatch", "--version")
        found = re.search(r"\d+\.\d+", said)
        assert found, said
        return found[0]

    @property
    def request_field(self) -> str:
        """The job's field in which what it asks of sbridge travels, as scontrol calls it."""
        return "Comment" if self.release < "23.02" else "Extra"

    def slurm(self, *argv: str) -> str:
        """Run a Slurm command as root and return what it printed."""
        return checked(run(argv, environment=self.slurm_environment))

    def scontrol(self, *argv: str) -> str:
        return self.slurm("scontrol", *argv)

    def scancel(self, job_id: int, *options: str) -> None:
        self.slurm("scancel", *options, str(job_id))

    def sbatch(self, user: str, script: str | bytes, *options: str) -> int:
        """Submit a script and return the job's id."""
        answer = self.as_user(user, ["sbatch", "--parsable", *options], script)
        return int(answer.split(";")[0])

    def batch_script(self, job_id: int) -> str:
        """Return the script as slurmctld keeps it."""
        return self.scontrol("write", "batch_script", str(job_id), "-")

    def job_field(self, job_id: int | str, name: str) -> str:
        """Return one field of `scontrol show job`, "" when the job has none of that name."""
        value = r"[^\n]*" if name in LINE_FIELDS else r"\S*"
        text = self.scontrol("show", "job", str(job_id))
        found = re.search(rf"(?:^|\s){name}=({value})", text)
        return found[1].rstrip() if found else ""

    def job_state(self, job_id: int) -> str:
        """Return a job's state, "" while Slurm does not know it."""
        squeue = ["squeue", "-h", "-t", "all", "-j", str(job_id), "-o", "%T"]
        states = run(squeue, environment=self.slurm_environment).stdout.split()
        return states[0] if states else self.accounting(job_id).get("State", "").split(" ")[0]

    def wait_job(
        self, job_id: int, states: str | Collection[str] = ENDED, timeout: float = 60
    ) -> str:
        """Wait until a job is in (one of) these states; fail at once when it ended otherwise."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        while (state := self.job_state(job_id)) not in wanted:
            if state in ENDED or time.monotonic() > deadline:
                about = self.scontrol("show", "job", str(job_id))
                pytest.fail(f"job {job_id} is {state or 'unknown'}, not {sorted(wanted)}:\n{about}")
            time.sleep(0.1)
        return state

    def start_requeued(self, job_id: int) -> None:
        """Let a requeued job start now: Slurm keeps it back for two minutes."""
        self.wait_job(job_id, "PENDING")
        self.scontrol("update", f"JobId={job_id}", "StartTime=now")

    def accounting(self, job_id: int, step: str = "") -> dict[str, str]:
        """Return sacct's record of a job, or of one of its steps ("batch", "0"), by column."""
        selected = f"{job_id}.{step}" if step else str(job_id)
        rows = self.slurm("sacct", "-P", "-j", selected, "-o", "ALL").splitlines()
        columns = [row.split("|") for row in rows[:2]]
        return dict(zip(*columns, strict=True)) if len(columns) == 2 else {}

    def drained_nodes(self) -> dict[str, str]:
        """Return the reason of each node that is drained."""
        rows = self.slurm("sinfo", "-h", "-N", "-p", "main", "-t", "drain", "-o", "%N|%E")
        return dict(row.split("|", 1) for row in rows.splitlines())

    # --- Podman and the kernel ---

    def podman(self, *argv: str) -> str:
        """Run podman on the sandboxes' storage and return what it printed."""
        storage = self.state / "podman"
        options = [f"--root={storage}/root", f"--runroot={storage}/run"]
        environment = {"CONTAINERS_CONF": str(self.state / "etc/containers.conf")}
        command = ["podman", *options, "--cgroup-manager=cgroupfs", *argv]
        return checked(run(command, environment=environment))

    def sandboxes(self) -> list[str]:
        """Return the names of the pods that exist."""
        return self.podman("pod", "ps", "--format", "{{.Name}}").split()

    def processes(self, words: str) -> list[str]:
        """Return the command lines (arguments ended by NUL) with these words in them.

        Other clusters' are not looked at: ours tell in their environment where their state folder
        is (SLURM_CONF, mostly), or have their root folder in it.
        """
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_bytes().decode("utf-8", "replace")
                if f"\0{words}\0" not in f"\0{line}":
                    continue
                environment = (path / "environ").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if f"{self.state}/" in environment or f"{self.state}/" in _mountinfo(path.name):
                found.append(line)
        return found

    def mounts(self) -> list[str]:
        """Return what is mounted below the state folder, but for Podman's own storage."""
        rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        storage = f"{self.state}/podman/root/overlay"
        return [row[4] for row in rows if row[4].startswith(f"{self.state}/") and row[4] != storage]

    def job_cgroups(self) -> list[str]:
        """Return the cgroups of jobs on this cluster's nodes, and those of its sandboxes."""
        found = [job for n in self.nodes for job in glob(f"{CGROUPS}/*/slurm_{n}/uid_*/job_*")]
        return sorted([*found, *self.sandbox_cgroups()])

    def sandbox_cgroups(self) -> list[str]:
        """Return the cgroups of pods that its agents told of, or that hold its containers."""
        told = {line["cgroup"].rpartition("/")[2] for line in self.told("*", "sandbox_ready")}
        return [str(pod) for pod in pod_cgroups() if pod.name in told or self._is_inside(pod)]

    def told(self, node: str, event: str) -> list[dict[str, Any]]:
        """Return what a node's agent ("*": each) has logged of one kind, oldest first."""
        found = []
        for log in self.logs.glob(f"agent-{node}.log"):
            entries = map(json.loads, log.read_text().splitlines())
            found += [entry for entry in entries if entry["event"] == event]
        return found

    def _is_inside(self, cgroup: Path) -> bool:
        """Whether it holds one of our containers."""
        pids: list[str] = []
        for folder, _, _ in os.walk(cgroup):  # which bears that they vanish meanwhile
            with contextlib.suppress(OSError):
                pids += Path(folder, "cgroup.procs").read_text().split()
        return any(f"{self.state}/podman/" in _mountinfo(pid) for pid in pids)

    def leftovers(self) -> list[str]:
        """Return everything that a job leaves while it is not wholly over."""
        spooled = glob(f"{self.spool}/*/jobs/*")
        return sorted([*self.sandboxes(), *self.mounts(), *self.job_cgroups(), *spooled])

    def wait_until_nothing_is_left(self, timeout: float = 30) -> None:
        """Wait until each thing that jobs have left now was gone for once.

        There may be others all the time: nobody tells whose a sandbox's empty cgroup is, and other
        clusters make and remove theirs.
        """
        left = set(self.leftovers())

        def is_gone() -> bool:
            left.intersection_update(self.leftovers())
            return not left

        self.wait_for(is_gone, timeout, lambda: f"no leftovers: {sorted(left)}")

    # --- The daemons ---

    def pids(self) -> dict[str, int]:
        """Return the daemons' pids: munged, slurmctld, slurmd-<node>, agent-<node>, watcher, …"""
        records = (self.state / "run/daemons").glob("*.json")
        return {path.stem: json.loads(path.read_text())["pid"] for path in records}

    def kill(self, *daemons: str) -> None:
        """Kill daemons as if they had crashed; `up` brings them back."""
        for daemon in daemons:
            os.kill(self.pids()[daemon], signal.SIGKILL)

    def kill_agents(self) -> None:
        self.kill(*(name for name in self.pids() if name.startswith("agent-")))

    def start_agents(self) -> None:
        self.up()

    # --- The NAS ---

    def drop(
        self, user: str, name: str, data: str | bytes, *, rename: bool = True, mode: str = "0644"
    ) -> Path:
        """Put a file into submit/ as that user: renamed into place, or written there."""
        path = self.submit / name
        script = 'umask 077; cat >"$1" && chmod "$3" "$1" && mv "$1" "$2"'
        if not rename:
            script = 'cat >"$2" && chmod "$3" "$2"'
        hidden = path.with_name(f".{name}.part")
        self.as_user(user, ["sh", "-c", script, "drop", str(hidden), str(path), mode], data)
        return path

    def give(self, path: Path, *, user: str, group: str = "", mode: int = 0o644) -> None:
        """Change a file's owner, group (the user's own unless named) and mode."""
        shutil.chown(path, user, group or pwd.getpwnam(user).pw_gid)
        path.chmod(mode)

    def wait_for(
        self,
        condition: Callable[[], object],
        timeout: float = 30,
        what: str | Callable[[], str] = "",
    ) -> None:
        """Wait for a condition to be true; see `wait_for` of this module."""
        wait_for(condition, timeout, what)
