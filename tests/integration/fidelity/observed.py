"""Run rows natively and in a sandbox, many at a time, and say what was seen of each.

What is seen: the files of the job's folder with their content, and what Slurm's accounting has of
the job and its steps. Ids, folders and times of day are written as words.
"""

import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.fidelity.row import Row
from tests.integration.running_cluster import SLOW_START, Cluster

USER = "alice"
_TIMEOUT_S = 240.0
_COLUMNS = (
    "JobID,JobIDRaw,JobName,State,ExitCode,DerivedExitCode,AllocCPUS,ReqMem,Partition,Account,QOS"
)
# What is another one in each run natively, too.
_OTHER = (
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", b"TIME"),
    # Who starts a task also says when it cannot be started.
    (rb"(?:slurmstepd-\S+: error|sbridge): execve", b"WHO: execve"),
    (rb"(slurm_script: line \d+:) +\d+ ", rb"\1 PID "),
)


@dataclass(frozen=True)
class Seen:
    """What one side of a row showed: files by name, and Slurm's records."""

    refusal: str
    files: dict[str, bytes]
    records: list[str]


@dataclass
class _Run:
    """One side of a row on its way."""

    row: Row
    directive: str
    folder: Path
    job_id: int = 0
    refusal: str = ""
    due: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def submit(self, cluster: Cluster) -> None:
        for name, content in self.row.files.items():
            (self.folder / name).write_bytes(content)
            cluster.give(self.folder / name, user=USER)
        script = self.row.script(self.directive)
        argv = ["sbatch", "--parsable", "--mem=100", *self.row.options]
        if self.row.by_stdin:  # a dash is what sbatch takes arguments behind
            ended = _as_user(
                cluster, [*argv, "/dev/stdin", *self.row.arguments], self.folder, script
            )
        else:
            path = self.folder.parent / f"{self.folder.name}.sh"
            path.write_bytes(script)
            ended = _as_user(cluster, [*argv, str(path), *self.row.arguments], self.folder)
        if ended.returncode or not ended.stdout:  # refused, or for a test only
            said = re.sub(rb"Job \d+ to start at \S+ ", b"Job JOB to start at TIME ", ended.stderr)
            self.refusal = said.decode("utf-8", "replace")
            return
        self.job_id = int(ended.stdout.split(b";")[0])
        self.due = list(self.row.then)

    def act(self, cluster: Cluster) -> None:
        """Do what is due to the job, if it has said what that waits for."""
        if not self.due:
            return
        (condition, argv) = self.due[0]
        if condition.startswith("@"):
            if cluster.job_state(self.job_id) != condition[1:]:
                return
        elif not any(condition.encode() in path.read_bytes() for path in self._streams()):
            return
        cluster.slurm(*(word.format(job=self.job_id) for word in argv))
        self.due.pop(0)

    def give_up(self, cluster: Cluster) -> None:
        """Cancel the job, and note that it did not end."""
        state = cluster.job_state(self.job_id)
        self.refusal = (
            f"job {self.job_id} has not ended, it is {state}; {len(self.due)} acts are due"
        )
        self.due.clear()
        cluster.scancel(self.job_id, "--signal=KILL", "--full")
        cluster.scancel(self.job_id)

    def _streams(self) -> list[Path]:
        files = (path for path in self.folder.iterdir() if path.is_file())
        return [path for path in files if path.name not in self.row.files]

    def seen(self, records: Iterable[str], nodes: Iterable[str]) -> Seen:
        """Return what is there now, in words that any other run would give."""
        records = list(records)
        ids = {str(self.job_id), *(_job_id(record.split("|")[1]) for record in records)}
        plain = _Plain(self.folder, ids, nodes)
        files = {
            plain.text(str(path.relative_to(self.folder)).encode()).decode(): self._content(
                plain, path
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        rows = [plain.text(record.encode()).decode() for record in records]
        return Seen(self.refusal, files, sorted(rows))

    def _content(self, plain: "_Plain", path: Path) -> bytes:
        content = plain.text(SLOW_START.sub(b"", path.read_bytes()))
        if self.row.in_any_order:
            return b"".join(sorted(content.splitlines(keepends=True)))
        return content


class _Plain:
    """Writes what names one run as words."""

    def __init__(self, folder: Path, ids: Iterable[str], nodes: Iterable[str]) -> None:
        self._folder = folder
        self._words = [
            *((rb"(?<!\d)0*%s(?!\d)" % job.encode(), b"JOB") for job in ids),
            *((rb"\b%s\b" % node.encode(), b"NODE") for node in nodes),
            *_OTHER,
        ]

    def text(self, text: bytes) -> bytes:
        text = text.replace(str(self._folder).encode(), b"FOLDER")
        text = text.replace(self._folder.name.encode(), b"ROW")
        for pattern, word in self._words:
            text = re.sub(pattern, word, text)
        return text


def observe(
    cluster: Cluster, rows: Iterable[Row], directives: dict[str, str], folder: Path
) -> dict[tuple[str, str], Seen]:
    """Run every row with each of the directives, by name; returns what was seen of each."""
    runs = {
        (row.title, kind): _Run(row, directive, _folder(cluster, folder, kind, number))
        for number, row in enumerate(rows)
        for kind, directive in directives.items()
    }
    for run in runs.values():
        run.submit(cluster)
    alive = [run for run in runs.values() if run.job_id]
    _wait(cluster, alive)
    records = _records(cluster, alive)
    nodes = cluster.nodes
    return {key: run.seen(records.get(run.job_id, ()), nodes) for key, run in runs.items()}


def _folder(cluster: Cluster, folder: Path, kind: str, number: int) -> Path:
    path = folder / kind / f"row{number}"
    path.mkdir(parents=True)
    cluster.give(path.parent, user=USER, mode=0o755)
    cluster.give(path, user=USER, mode=0o755)
    return path


def _as_user(
    cluster: Cluster, argv: list[str], folder: Path, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as the user, with nothing in its environment but what a login has."""
    user = pwd.getpwnam(USER)
    return subprocess.run(
        argv,
        input=text,
        cwd=folder,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=os.getgrouplist(USER, user.pw_gid),
        umask=0o027,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": user.pw_dir,
            "USER": USER,
            "LOGNAME": USER,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(cluster.state / "etc/slurm.conf"),
            "TRICKY": "a=b 'c' \"d\" $e \\ ü\nsecond line",
        },
        capture_output=True,
        check=False,
    )


def _wait(cluster: Cluster, runs: list[_Run]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        squeue = ["squeue", "-h", "-u", USER, "-o", "%A %F %T"]
        lines = [line.split() for line in cluster.slurm(*squeue).splitlines()]
        busy = {int(first) for line in lines for first in line[:2]}
        for run in runs:
            run.act(cluster)
        left = [run for run in runs if run.job_id in busy or run.due]
        if not left:
            return
        if time.monotonic() > deadline:
            for run in left:
                run.give_up(cluster)
            return
        time.sleep(0.2)


def _records(cluster: Cluster, runs: list[_Run]) -> dict[int, list[str]]:
    """Return accounting's rows by job, once slurmdbd has all of them."""
    ids = ",".join(str(run.job_id) for run in runs)
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        text = cluster.slurm("sacct", "-n", "-P", "-D", "-j", ids, "-o", f"{_COLUMNS},End")
        rows = [row.rpartition("|") for row in text.splitlines()]
        known = {_job_of(row[0]) for row in rows}
        if {run.job_id for run in runs} <= known and not any(row[2] == "Unknown" for row in rows):
            break
        assert time.monotonic() < deadline, "slurmdbd does not tell how the jobs ended"
        time.sleep(0.5)
    found: dict[int, list[str]] = {}
    for record, _, _ in rows:
        found.setdefault(_job_of(record), []).append(record)
    return found


def _job_id(text: str) -> str:
    """Return the number that an id such as `12_3.batch` begins with."""
    return re.split(r"[_.+]", text, maxsplit=1)[0]


def _job_of(record: str) -> int:
    return int(_job_id(record.partition("|")[0]))
