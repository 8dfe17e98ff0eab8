"""Run rows natively and in a sandbox, many at a time, and say what was seen of each.

What is seen: the files of the job's folder with their content, and what Slurm's accounting has of
the job and its steps. Ids, folders and times of day are written as words.
"""

import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from tests.integration.fidelity.row import Row
from tests.integration.running_cluster import ENDED, SLOW_START, Cluster, run

USER = "alice"
# The line of a native script, where a sandboxed one has its directive.
PLAIN = "# no image\n"
_STALL_S = 180.0  # without any job's end: the longest time limit, and what Slurm adds
_COLUMNS = (
    "JobID,JobIDRaw,JobName,State,ExitCode,DerivedExitCode,AllocCPUS,ReqMem,Partition,Account,QOS"
)
_UNOPENED = "0:53"  # the exit code of a script whose files Slurm could not open
# What is another one in each run natively, too.
_OTHER = (
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?", b"TIME"),
    (rb"(SLURM_JOB_SLUID=)\w+", rb"\1SLUID"),
    # Who starts a task also says when it cannot be started.
    (rb"(?:slurmstepd-\S+: error|\[TIME\] error|sbridge): execve", b"WHO: execve"),
    (rb"(slurm_script: line \d+:) +\d+ ", rb"\1 PID "),
    # Twice, when slurmctld and srun end a step at once; not at all, when srun has hung up.
    (
        rb"(?:slurmstepd-\S+:|\[TIME\]) error: \*\*\* STEP \S+ ON \S+ CANCELLED AT TIME"
        rb"(?: DUE to SIGNAL \w+)? \*\*\*\n",
        b"",
    ),
    # When the step has ended before scancel speaks of it a second time (26.05).
    (rb"scancel: error: Kill job error on job step id \S+ Invalid job id specified\n", b""),
    # When slurmctld has not yet noted the end of the step before.
    (rb"srun: (?:Job \S+ step creation \w+ disabled, retrying \(.*\)|Step created for .*)\n", b""),
)


@dataclass(frozen=True)
class Seen:
    """What one side of a row showed: files by name, Slurm's records and its answers.

    `astray` are the jobs whose script ran natively and should not have, or the other way round.
    """

    refusal: str
    answers: str
    files: dict[str, bytes]
    records: list[str]
    astray: tuple[str, ...] = field(default=(), compare=False)

    def readable(self) -> dict[str, object]:
        """Return it so that a difference is short to read."""
        files = {
            name: content.decode("utf-8", "backslashreplace").splitlines()
            for name, content in self.files.items()
        }
        said = {"refusal": self.refusal, "answers": self.answers, "records": self.records}
        return {**said, **files}


@dataclass
class _Run:
    """One side of a row on its way; `name` is its own."""

    row: Row
    directive: str
    folder: Path
    name: str
    job_id: int = 0
    refusal: str = ""
    answers: str = ""
    due: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    others: list[int] = field(default_factory=list)  # ids that may be spoken of

    def prepare(self, cluster: Cluster) -> None:
        for command in self.row.before:
            cluster.slurm(*(word.format(name=self.name) for word in command))

    def submit(self, cluster: Cluster) -> None:
        for name, content in self.row.files.items():
            (self.folder / name).write_bytes(content)
            cluster.give(self.folder / name, user=USER)
        words = {"{name}": self.name}
        if self.row.parent:
            body, options = self.row.parent
            parent = replace(self.row, body=body, options=("-o", "/dev/null", *options))
            said = self._sbatch(cluster, parent, words).stdout
            self.others.append(int(said.split(b";")[0]))
            words["{parent}"] = str(self.others[0])
        ended = self._sbatch(cluster, self.row, words)
        if ended.returncode or not ended.stdout:  # refused, or for a test only
            said = re.sub(rb"Job \d+ to start at \S+ ", b"Job JOB to start at TIME ", ended.stderr)
            self.refusal = said.decode("utf-8", "replace")
            return
        self.job_id = int(ended.stdout.split(b";")[0])
        self.due = list(self.row.then)

    def _sbatch(
        self, cluster: Cluster, row: Row, words: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        options = list(row.options)
        for word, meaning in words.items():
            options = [option.replace(word, meaning) for option in options]
        argv = [*row.submitter, "sbatch", "--parsable", "--mem=100", *options]
        script = row.script(self.directive)
        if row.is_wrapped:
            request = _request(self.directive)
            return _as_user(cluster, [*argv, *request, f"--wrap={row.body}"], self.folder)
        path = self.folder.parent / f"{self.folder.name}.sh"
        path.write_bytes(script)
        if row.by_stdin:  # sbatch takes arguments behind a script's name only
            words = ["/dev/stdin", *row.arguments] if row.arguments else []
            return _as_user(cluster, [*argv, *words], self.folder, path)
        return _as_user(cluster, [*argv, str(path), *row.arguments], self.folder)

    def goes_on(self, cluster: Cluster, state: str) -> bool:
        """Do what is due to the job, which is in `state`; False when it has ended."""
        is_over = not state or state in ENDED
        if self.due and self._is_due(*self.due[0], state):
            self._act(cluster, self.due.pop(0)[1])
        elif self.due and is_over:
            self.give_up(cluster)
        return not is_over or bool(self.due)

    def _is_due(self, condition: str, _: object, state: str) -> bool:
        if condition.startswith("@"):
            return state in condition[1:].split("|")
        return any(condition.encode() in path.read_bytes() for path in self._streams())

    def _act(self, cluster: Cluster, argv: tuple[str, ...]) -> None:
        command = [word.format(job=self.job_id, name=self.name) for word in argv]
        ended = run(command, environment=cluster.slurm_environment)
        if said := ended.stdout + ended.stderr:
            self.answers += f"{command[0]}: {ended.returncode}: {said}"

    def give_up(self, cluster: Cluster) -> None:
        """Cancel the job, and note that it did not end, or ended before all was done to it."""
        state = cluster.job_state(self.job_id)
        self.refusal = (
            f"job {self.job_id} is {state or 'unknown'}; acts that were not due: {self.due}"
        )
        self.due.clear()
        for options in (("--signal=KILL", "--full"), ()):
            jobs = map(str, (self.job_id, *self.others))
            run(["scancel", *options, *jobs], environment=cluster.slurm_environment)

    def _streams(self) -> list[Path]:
        files = (path for path in self.folder.iterdir() if path.is_file())
        return [path for path in files if path.name not in self.row.files]

    def seen(self, records: Iterable[str], nodes: Iterable[str], entered: set[str]) -> Seen:
        """Return what is there now, in words that any other run would give.

        `entered` are the ids of the jobs that were in sandboxes.
        """
        records = list(records)
        ids = {str(self.job_id), *(_job_id(record.split("|")[1]) for record in records)}
        plain = _Plain(self.folder, {self.name, *map(str, self.others)}, ids, nodes)
        files = {
            plain.text(str(path.relative_to(self.folder)).encode()).decode(): self._content(
                plain, path
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        rows = [plain.text(record.encode()).decode() for record in records]
        refusal, answers = (plain.text(t.encode()).decode() for t in (self.refusal, self.answers))
        began = set(filter(None, map(_begun, records)))
        astray = began & entered if self.directive == PLAIN else began - entered
        return Seen(refusal, answers, files, sorted(rows), tuple(sorted(astray)))

    def _content(self, plain: "_Plain", path: Path) -> bytes:
        content = plain.text(path.read_bytes())
        if self.row.in_any_order:
            return b"".join(sorted(content.splitlines(keepends=True)))
        return content


class _Plain:
    """Writes what names one run as words."""

    def __init__(
        self, folder: Path, names: Iterable[str], ids: Iterable[str], nodes: Iterable[str]
    ) -> None:
        self._folder = folder
        self._words = [
            *((rb"\b%s\b" % name.encode(), b"NAME") for name in names),
            *((rb"(?<!\d)0*%s(?!\d)" % job.encode(), b"JOB") for job in ids),
            *((rb"(?<![a-zA-Z0-9])%s(?![a-zA-Z0-9])" % node.encode(), b"NODE") for node in nodes),
        ]

    def text(self, text: bytes) -> bytes:
        text = text.replace(str(self._folder).encode(), b"FOLDER")
        text = text.replace(self._folder.name.encode(), b"ROW")
        for pattern, word in self._words:
            text = re.sub(pattern, word, text)
        return in_words(text)


def in_words(text: bytes) -> bytes:
    """Return what a job wrote without what says that it started slowly, times as words."""
    text = SLOW_START.sub(b"", text)
    for pattern, word in _OTHER:
        text = re.sub(pattern, word, text)
    return text


def observe(
    cluster: Cluster, rows: Iterable[Row], directives: dict[str, str], folder: Path
) -> dict[tuple[str, str], Seen]:
    """Run every row with each of the directives, by name; returns what was seen of each."""
    runs = {
        (row.title, kind): _Run(
            row, directive, _folder(cluster, folder, kind, number), f"{kind}{number}"
        )
        for number, row in enumerate(rows)
        for kind, directive in directives.items()
    }
    for each in runs.values():  # while there are no jobs yet
        each.prepare(cluster)
    for each in runs.values():
        each.submit(cluster)
    alive = [each for each in runs.values() if each.job_id]
    _wait(cluster, alive)
    records = _records(cluster, alive)
    nodes = cluster.nodes
    entered = {line["run"].partition(".")[0] for line in cluster.told("*", "step_entered")}
    return {
        key: each.seen(records.get(each.job_id, ()), nodes, entered) for key, each in runs.items()
    }


def _folder(cluster: Cluster, folder: Path, kind: str, number: int) -> Path:
    path = folder / kind / f"row{number}"
    path.mkdir(parents=True)
    cluster.give(path.parent, user=USER, mode=0o755)
    cluster.give(path, user=USER, mode=0o755)
    return path


def _request(directive: str) -> list[str]:
    """Return the option that asks for what a directive does, where there is no script."""
    image = directive.partition("#K8S_IMAGE=")[2].strip()
    return [f"--comment=sbridge1?image={quote(image, safe='')}"] if image else []


def _as_user(
    cluster: Cluster, argv: list[str], folder: Path, stdin: Path = Path(os.devnull)
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as the user, with nothing in its environment but what a login has.

    Its stdin is a file: a pipe of ours it could not open again by its name, /dev/stdin.
    """
    user = pwd.getpwnam(USER)
    with stdin.open("rb") as given:
        return subprocess.run(
            argv,
            stdin=given,
            cwd=folder,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=os.getgrouplist(USER, user.pw_gid),
            umask=0o027,
            env={
                "PATH": f"{cluster.slurm_bin}:/usr/bin:/bin",
                "HOME": user.pw_dir,
                "USER": USER,
                "LOGNAME": USER,
                "SHELL": "/bin/bash",
                "LANG": "C.UTF-8",
                "SLURM_CONF": str(cluster.state / "etc/slurm.conf"),
                "TRICKY": "a=b 'c' \"d\" $e \\ ü\nsecond line",
                "EMPTY": "",
                "no-name.of a:shell": "but of a variable",
                "BASH_FUNC_greet%%": '() {  echo "hello $1"\n}',
            },
            capture_output=True,
            check=False,
        )


def _wait(cluster: Cluster, runs: list[_Run]) -> None:
    """Wait until all jobs have ended, and do meanwhile what is due to them."""
    left = runs
    over: set[int] = set()
    deadline = time.monotonic() + _STALL_S
    while left:
        states = _states(cluster)
        left = [each for each in left if each.goes_on(cluster, states.get(each.job_id, ""))]
        ended = {job_id for job_id, state in states.items() if state in ENDED}
        if not ended <= over:
            over |= ended
            deadline = time.monotonic() + _STALL_S
        elif time.monotonic() > deadline:
            for each in left:
                each.give_up(cluster)
            return
        time.sleep(0.2)


def _states(cluster: Cluster) -> dict[int, str]:
    """Return the state of each job, of an array one that has not ended if there is any."""
    squeue = ["squeue", "-h", "-t", "all", "-u", USER, "-o", "%A %F %T"]
    lines = [line.split() for line in cluster.slurm(*squeue).splitlines()]
    lines.sort(key=lambda line: line[2] not in ENDED)
    return {int(job_id): line[2] for line in lines for job_id in line[:2]}


def _records(cluster: Cluster, runs: list[_Run]) -> dict[int, list[str]]:
    """Return accounting's rows by job, once slurmdbd has all of them."""
    ids = ",".join(str(each.job_id) for each in runs)
    deadline = time.monotonic() + _STALL_S
    while True:
        text = cluster.slurm("sacct", "-n", "-P", "-D", "-j", ids, "-o", f"{_COLUMNS},End")
        rows = [row.rpartition("|") for row in text.splitlines()]
        known = {_job_of(row[0]) for row in rows}
        # Of a job whose end came before its beginning it knows neither name nor QOS yet.
        is_partial = any(row[2] == "Unknown" or row[0].endswith("|Unknown") for row in rows)
        if {each.job_id for each in runs} <= known and not is_partial:
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


def _begun(record: str) -> str:
    """Return the id of the job whose script's record it is, if that was started; else ""."""
    _, raw_id, _, _, exit_code, *_ = record.split("|")
    job_id, _, step = raw_id.partition(".")
    return job_id if step == "batch" and exit_code != _UNOPENED else ""
