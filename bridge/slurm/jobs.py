"""Ask slurmctld about jobs and this node, and tell it what the agent decides about them.

"Slurm said no" and "Slurm could not be asked" are never the same: the first is a value,
the second raises `TemporaryError`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge import command
from bridge.config import Slurm
from bridge.errors import CommandError, TemporaryError
from bridge.slurm import table
from bridge.slurm.hostlist import expand_hostlist
from bridge.slurm.shown_job import extra_of, fields_of

REASON_PREFIX = "sbridge:"
_LONGEST_REASON = 200
_UNREACHED = re.compile(r"contact slurm controller|timed out|connection|socket", re.IGNORECASE)
_NODE = re.compile(r"^NodeName=(\S+) .*?(?=^NodeName=|\Z)", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"^   NodeAddr=(\S+)", re.MULTILINE)
_COMMENT = re.compile(r"^   Comment=(.*?)\n*(?=^   [A-Z]\w*=|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class NodeShare:
    """What a job was given on one node: `cpus` as a count, `memory_mib`, 0 for unlimited."""

    cpus: int
    memory_mib: int


@dataclass(frozen=True)
class NodeNote:
    """Where a node is reached, and the comment that anybody with the right may write to it."""

    address: str
    comment: str


@dataclass(frozen=True)
class Job:
    """A job as `scontrol show job` tells it; `fields` holds every Key=value of its text."""

    job_id: int
    fields: Mapping[str, str]

    @classmethod
    def read(cls, job_id: int, name: str, text: str) -> "Job":
        """Read scontrol's text; raises `TemporaryError` when it is no such answer."""
        return cls(job_id, fields_of(job_id, name, text))

    @property
    def state(self) -> str:
        """The job's state, such as RUNNING or TIMEOUT."""
        return self.fields.get("JobState", "UNKNOWN")

    @property
    def is_over(self) -> bool:
        """Whether this run of the job has ended and its nodes are free."""
        return self.state not in _UNFINISHED

    def share_of(self, node: str) -> NodeShare | None:
        """Return what the job has on `node`, None when it is not told."""
        for match in re.finditer(r"Nodes=(\S+) CPU_IDs=(\S+) Mem=(\d+)", self._details):
            if node in expand_hostlist(match[1]):
                return NodeShare(_count_ids(match[2]), int(match[3]))
        return None

    def gpus_of(self, node: str) -> str:
        """Return the job's GPUs on `node` as SLURM_JOB_GPUS has them, such as `0,2-3`."""
        for match in re.finditer(r"Nodes=(\S+) CPU_IDs=\S+ Mem=\d+ GRES=(\S*)", self._details):
            if node in expand_hostlist(match[1]):
                return ",".join(re.findall(r"gpu(?::[^(,]+)?\(IDX:([\d,-]+)\)", match[2]))
        return ""

    @property
    def _details(self) -> str:
        return self.fields["_details"]


_UNFINISHED = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING "
    "REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT".split()
)


class SlurmControl:
    """slurmctld, asked with Slurm's own commands."""

    def __init__(self, settings: Slurm) -> None:
        self._settings = settings

    def _run(self, name: str, *arguments: str) -> str:
        conf = self._settings.conf or os.environ.get("SLURM_CONF", "")
        environment = {"SLURM_CONF": conf} if conf else {}
        argv = [str(self._settings.bin_dir / name), *arguments]
        return command.run(argv, timeout_s=self._settings.timeout_s, environment=environment).stdout

    def _ask(self, name: str, *arguments: str) -> str:
        try:
            return self._run(name, *arguments)
        except CommandError as error:
            raise TemporaryError(f"Slurm could not be asked: {error}") from error

    def job(self, job_id: int) -> Job | None:
        """Return the job, or None when slurmctld says that it does not know it (any more)."""
        try:
            array, task, name = self._columns(job_id, ["%F", "%K", "%j"])
            # Of an array its first job alone would show them all.
            shown = f"{array}_{task}" if task.isdigit() else str(job_id)
            text = self._run("scontrol", "-d", "-o", "show", "job", shown)
        except CommandError as error:
            if "Invalid job id specified" in error.stderr_tail:
                return None
            raise TemporaryError(f"Slurm could not be asked: {error}") from error
        return Job.read(job_id, name, text)

    def _columns(self, job_id: int, columns: list[str]) -> list[str]:
        """Return columns of squeue for the job itself: -j gives an array's other tasks, too."""
        mark = table.new_mark()
        wanted = mark.join(["%A", *columns, ""])
        text = self._run("squeue", "-h", "-a", "-t", "all", "-j", str(job_id), "-o", wanted)
        for own_id, *cells in table.rows(text, mark, len(columns) + 1):
            if own_id == str(job_id):
                return cells
        return [""] * len(columns)

    def prolog_variables(self, job_id: int, node: str) -> dict[str, str] | None:
        """Return what a Prolog on `node` would have said of the job, None when it has none there.

        slurmd runs no Prolog for a job that starts again within seconds on the same node.
        """
        job = self.job(job_id)
        if job is None or job.is_over or node not in expand_hostlist(job.fields["NodeList"]):
            return None
        user = re.fullmatch(r"(.*)\((\d+)\)", job.fields["UserId"])
        group = re.fullmatch(r"(.*)\((\d+)\)", job.fields["GroupId"])
        if not user or not group:
            return None
        try:
            (comment,) = self._columns(job_id, ["%k"])
        except CommandError as error:
            raise TemporaryError(f"Slurm could not be asked: {error}") from error
        return {
            "SLURM_JOB_ID": str(job_id),
            "SLURM_JOB_RESTART_COUNT": job.fields.get("Restarts", "0"),
            "SLURM_JOB_UID": user[2],
            "SLURM_JOB_GID": group[2],
            "SLURM_JOB_USER": user[1],
            "SLURM_JOB_ACCOUNT": job.fields.get("Account", ""),
            "SLURM_JOB_PARTITION": job.fields.get("Partition", ""),
            "SLURM_JOB_NODELIST": job.fields["NodeList"],
            "SLURM_JOB_GPUS": job.gpus_of(node),
            "SLURM_JOB_COMMENT": comment,
            "SLURM_JOB_EXTRA": extra_of(job.fields, comment),
        }

    def jobs_on(self, node: str) -> set[int]:
        """Return the ids of the jobs that have not ended yet on `node`."""
        text = self._ask("squeue", "-h", "-a", "-w", node, "-t", "all", "-o", "%A %T")
        jobs = (line.split() for line in text.split("\n"))
        return {int(fields[0]) for fields in jobs if len(fields) > 1 and fields[1] in _UNFINISHED}

    def nodes(self) -> list[str]:
        """Return the names of the nodes of all partitions."""
        return sorted(set(self._ask("sinfo", "-h", "-a", "-N", "-o", "%N").split()))

    def accounted(self, job_id: int) -> dict[str, str]:
        """Return slurmdbd's last record of the job (State, ExitCode, …); empty when none."""
        keys = (
            "JobIDRaw",
            "User",
            "Account",
            "Partition",
            "QOS",
            "State",
            "ExitCode",
            "Submit",
            "Start",
            "End",
            "NodeList",
            "MaxRSS",
            "TotalCPU",
            "JobName",
        )
        mark = table.new_mark()
        wanted = ["-n", "-p", f"--delimiter={mark}", "-j", str(job_id), "-o", ",".join(keys)]
        record: dict[str, str] = {}
        for cells in table.rows(self._ask("sacct", *wanted), mark, len(keys)):
            fields = dict(zip(keys, cells, strict=True))
            if fields["JobIDRaw"] == str(job_id):
                record = {**fields, "MaxRSS": record.get("MaxRSS", "")}
            elif fields["MaxRSS"] and fields["JobIDRaw"].startswith(f"{job_id}."):
                # Its own steps: of an array's first job sacct tells the other tasks', too.
                record["MaxRSS"] = max(record.get("MaxRSS", ""), fields["MaxRSS"], key=kib)
        return record

    def slurmd_spool_dir(self, node: str) -> Path:
        """Return slurmd's spool folder on `node` (slurm.conf SlurmdSpoolDir, expanded)."""
        match = re.search(
            r"^SlurmdSpoolDir\s*=\s*(\S+)", self._ask("scontrol", "show", "config"), re.MULTILINE
        )
        if not match:
            raise TemporaryError("`scontrol show config` names no SlurmdSpoolDir")
        return Path(match[1].replace("%n", node).replace("%h", node))

    def requeue(self, job_id: int) -> bool:
        """Requeue the job; False when Slurm refuses (it may not be requeued)."""
        try:
            self._run("scontrol", "requeue", str(job_id))
        except CommandError as error:
            if error.exit_code is None or _UNREACHED.search(error.stderr_tail):
                raise TemporaryError(f"Slurm could not be asked: {error}") from error
            return False  # no batch job, or one that may not be requeued
        return True

    def node_notes(self, nodes: str) -> dict[str, NodeNote]:
        """Return what is noted of the nodes of a hostlist, as far as Slurm knows them."""
        return parse_nodes(self._ask("scontrol", "show", "node", nodes))

    def comment_node(self, node: str, comment: str) -> None:
        """Replace the comment of `node`."""
        self._ask("scontrol", "update", f"NodeName={node}", f"Comment={comment}")

    def drain(self, node: str, reason: str) -> None:
        """Drain `node`; the reason is prefixed by `sbridge:`."""
        text = _short(f"{REASON_PREFIX} {reason}")
        self._ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={text}")

    def is_drained_by_us(self, node: str) -> bool:
        """Whether `node` is drained for a reason with our prefix."""
        text = self._ask("scontrol", "-o", "show", "node", node)
        match = re.search(r"Reason=(.*?)(?: \[|$)", text)
        return match is not None and match[1].startswith(REASON_PREFIX) and "DRAIN" in text

    def resume(self, node: str) -> bool:
        """Resume `node` if it is drained with our prefix; return whether it was."""
        if not self.is_drained_by_us(node):
            return False
        self._ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return True


def _short(text: str) -> str:
    """Cut the middle out of a long reason: the begin says what failed, the end why."""
    if len(text) <= _LONGEST_REASON:
        return text
    half = (_LONGEST_REASON - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def parse_nodes(text: str) -> dict[str, NodeNote]:
    """Read `scontrol show node`; the comment may have line breaks of its author's own."""
    notes = {}
    for node in _NODE.finditer(text):
        address, comment = _ADDRESS.search(node[0]), _COMMENT.search(node[0])
        if address:
            notes[node[1]] = NodeNote(address[1], comment[1] if comment else "")
    return notes


def _count_ids(text: str) -> int:
    spans = (span.partition("-") for span in text.split(","))
    return sum(int(high or low) - int(low) + 1 for low, _, high in spans)


def kib(text: str) -> int:
    """Read sacct's amounts of memory (`3500K`, `1.50M`, `0`) as KiB."""
    units = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
    number = text.rstrip("KMGT")
    return int(float(number or 0) * units.get(text[-1:], 1 / 1024))


def seconds(text: str) -> float | None:
    """Read sacct's times (`1-02:03:04`, `00:01.500`) as seconds; None when there is none."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        return None
    days, hours, minutes, rest = match.groups(default="0")
    return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(rest)
