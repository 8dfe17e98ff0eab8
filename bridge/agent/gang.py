"""The sandboxes of a job on all its nodes: each agent tells of its own, whoever waits asks.

The channel is the comment of each agent's own node in Slurm: no port is opened, and no agent
writes where another does. A word stays until its run is over on that node, and what the run left
there is delivered (`delivery.py`).

"Could not ask" and "tells nothing yet" both keep waiting; `gather` ends with the patience of
the job, and a little later than that of the other nodes' agents, whose reasons say more.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

from bridge.agent import standing
from bridge.agent.job import JobRun
from bridge.agent.standing import Standing
from bridge.errors import TemporaryError
from bridge.job_spool import RunId
from bridge.slurm.jobs import NodeNote, SlurmControl

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0
_LATE_S = 30.0
_NAMED = 4


@dataclass(frozen=True)
class Gathered:
    """What the nodes told: the first that failed, if one did, and where the tasks meet."""

    failed_node: str = ""
    failed: Standing | None = None
    address: str = ""
    port: int = 0


class Gang:
    """This node's part in jobs with more than one node."""

    def __init__(self, node: str, slurm: SlurmControl, log: Any) -> None:
        self._node = node
        self._slurm = slurm
        self._log = log
        self._standings: dict[RunId, Standing] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()

    def start(self) -> None:
        """Begin to tell; what an earlier agent told of runs that are over is taken back."""
        threading.Thread(target=self._tell_for_ever, name="gang", daemon=True).start()
        self._news.set()

    def tell(self, job: JobRun) -> None:
        """Have the other nodes know how the run's sandbox stands here."""
        if not job.request.is_gang:
            return
        state = job.state
        with self._lock:
            self._standings[job.run] = Standing(
                job.run, state.master_port, state.blame, state.reason
            )
        self._news.set()

    def withdraw(self, run: RunId) -> None:
        """Take back what was told of a run that is over."""
        with self._lock:
            told = self._standings.pop(run, None)
        if told is not None:
            self._news.set()

    def remind(self) -> None:
        """Look whether what was told is still there."""
        if self._standings:
            self._news.set()

    def _tell_for_ever(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            self._news.wait()
            self._news.clear()
            try:
                self._tell_once()
                retry_s = _FIRST_RETRY_S
                continue
            except TemporaryError as error:
                self._log.warning("gang_not_told", reason=str(error))
            except Exception as error:  # noqa: BLE001 - a bug; other jobs' words must go on
                self._log.error("gang_crashed", exc_info=error)
            time.sleep(retry_s)
            retry_s = min(retry_s * 2, _LONGEST_RETRY_S)
            self._news.set()

    def _tell_once(self) -> None:
        note = self._slurm.node_notes(self._node).get(self._node)
        if note is None:
            raise TemporaryError(f"Slurm does not tell of node {self._node}")
        with self._lock:
            standings = [self._standings[run] for run in sorted(self._standings)]
        wanted = standing.written(note.comment, standings)
        if wanted != note.comment:
            self._slurm.comment_node(self._node, wanted)

    def gather(self, job: JobRun) -> Gathered | None:
        """Wait for the job's sandboxes on the other nodes; None when the job ended meanwhile.

        Raises `TemporaryError` when they do not come in time.
        """
        others = [node for node in job.request.node_names if node != self._node]
        pause_s = _FIRST_PAUSE_S
        while not job.is_settled:
            why = ""
            try:
                notes = self._slurm.node_notes(job.request.nodes)
                told = {node: _standing(notes, node, job.run) for node in others}
                for node, each in told.items():
                    if each is not None and each.blame:
                        return Gathered(node, each)
                missing = [node for node in others if told[node] is None]
                if not missing and job.state.name == "ready":
                    return self._complete(job, notes, told)
                if missing:
                    why = f"waiting for the job's sandbox on {_names(missing)}"
            except TemporaryError as error:
                why = f"waiting for Slurm: {error.message}"
            self._wait(job, why, pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return None

    def telling(self, job: JobRun) -> list[str]:
        """Return the other nodes of the job that still tell of the run.

        Raises `TemporaryError` when Slurm could not be asked.
        """
        notes = self._slurm.node_notes(job.request.nodes)
        others = (node for node in job.request.node_names if node != self._node)
        return [node for node in others if _standing(notes, node, job.run) is not None]

    def _wait(self, job: JobRun, why: str, pause_s: float) -> None:
        if job.state.name == "ready" and why:  # else its own progress says more
            job.say(why)
            if time.time() > job.give_up_at + _LATE_S:
                waited_s = int(time.time() - job.state.accepted_at)
                raise TemporaryError(f"still {why}, after {waited_s} s")
        job.cancelled.wait(pause_s)

    def _complete(
        self, job: JobRun, notes: dict[str, NodeNote], told: dict[str, Standing | None]
    ) -> Gathered:
        first = told.get(job.request.batch_host)
        port = first.port if first is not None else job.state.master_port
        return Gathered(address=notes[job.request.batch_host].address, port=port)


def _standing(notes: dict[str, NodeNote], node: str, run: RunId) -> Standing | None:
    return standing.find(notes[node].comment, run) if node in notes else None


def _names(nodes: list[str]) -> str:
    rest = len(nodes) - _NAMED
    return ", ".join(nodes[:_NAMED]) + (f" and {rest} more nodes" if rest > 0 else "")
