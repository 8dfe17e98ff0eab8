"""One run of a job on this node: what is known of it, on disk and in memory.

States, in order; each is on disk (state.json) before it is acted on:
1. accepted   the Prolog's word is recorded; the sandbox is being made
2. ready      steps may enter; of a job with several nodes once it has `gathered` them
3. failed     there will be no sandbox; `reason` says why, `blame` whose fault it is
4. finished   the job is over and its sandbox gone; results are being published
A run whose results are published has no folder any more.
"""

import contextlib
import json
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bridge import kernel
from bridge.durable import sync_file, write_atomically
from bridge.errors import PermanentError
from bridge.job_spool import JobSpool, RunId
from bridge.request import SandboxRequest, find
from bridge.runtimes.sandbox import Mount, Sandbox
from bridge.slurm.hostlist import expand_hostlist

_MOST_WORDS = 20
NOBODY_TOLD = "it was deleted from outside, or it ended by itself"


@dataclass(frozen=True)
class Request:
    """What the Prolog said, as root and therefore true, and the user's sandbox request."""

    run: RunId
    uid: int
    gid: int
    variables: dict[str, str]

    @classmethod
    def of(cls, variables: dict[str, str]) -> "Request":
        """Read a hook's variables; raises `PermanentError` when they name no job."""
        try:
            run = RunId(
                int(variables["SLURM_JOB_ID"]), int(variables.get("SLURM_JOB_RESTART_COUNT", "0"))
            )
            uid, gid = int(variables["SLURM_JOB_UID"]), int(variables["SLURM_JOB_GID"])
        except (KeyError, ValueError) as error:
            raise PermanentError(f"a hook sent no usable job variables: {error}") from error
        return cls(run, uid, gid, variables)

    @property
    def asked(self) -> SandboxRequest:
        """The user's word; raises `PermanentError` when it is malformed."""
        texts = (self.variables.get("SLURM_JOB_EXTRA"), self.variables.get("SLURM_JOB_COMMENT"))
        return find(*texts) or SandboxRequest()

    @property
    def is_nas_job(self) -> bool:
        """Whether the watcher submitted it."""
        try:
            return bool(self.asked.tag)
        except PermanentError:
            return False

    @property
    def batch_host(self) -> str:
        """The node that runs the script: the allocation's first."""
        return next(iter(self.node_names), "")

    @property
    def node_names(self) -> list[str]:
        """The nodes of the allocation, in Slurm's order."""
        return expand_hostlist(self.nodes)

    @property
    def has_image(self) -> bool:
        """Whether the job asked for a sandbox in words that can be read."""
        try:
            return bool(self.asked.image)
        except PermanentError:
            return False

    @property
    def is_gang(self) -> bool:
        """Whether the job has sandboxes on several nodes, none of which is used before all are."""
        return len(self.node_names) > 1 and self.has_image  # else every node refuses it

    @property
    def nodes(self) -> str:
        """The allocation as a hostlist."""
        return self.variables.get("SLURM_JOB_NODELIST") or self.variables.get("SLURM_NODELIST", "")


@dataclass
class State:
    """Where the run stands; see the module for the values of `name`."""

    name: str = "accepted"
    runtime: str = ""
    sandbox_name: str = ""
    sandbox: Sandbox | None = None
    blame: str = ""
    reason: str = ""
    finish: dict[str, str] = field(default_factory=dict)
    accepted_at: float = 0.0
    start_s: float = 0.0
    start_words: list[str] = field(default_factory=list)
    results_folder: str = ""
    gathered: bool = False
    master_addr: str = ""
    master_port: int = 0


class JobRun:
    """A run with its state; `changed` is notified at each step and each word of progress."""

    def __init__(
        self, request: Request, spool: JobSpool, state: State, patience_s: float = 0.0
    ) -> None:
        self.request = request
        self.spool = spool
        self.state = state
        self._patience_s = patience_s  # of the steps that wait for the sandbox
        self.progress = "the sandbox is being made"
        self._said: list[str] = []
        # What the first try found on the node: a folder that goes afterwards is waited for.
        self.folders: tuple[Mount, ...] = ()
        self.is_urgent = False  # whether `progress` is for steps that came only now, too
        self.cancelled = threading.Event()  # set when the job is over
        self.changed = threading.Condition()
        self.lost = ""  # why the sandbox ended by itself, in the runtime's words
        self.is_ending = False  # whether `lost` was looked for: from now on we end the sandbox
        self.lifecycle = threading.Lock()  # held while the sandbox is made or removed

    @property
    def run(self) -> RunId:
        return self.request.run

    @property
    def labels(self) -> dict[str, str]:
        """What a line of the log about this run names."""
        return {"run": str(self.run), "sandbox": self.state.sandbox_name}

    @property
    def give_up_at(self) -> float:
        """When a sandbox that nobody can make yet is not waited for any longer."""
        return self.state.accepted_at + self._patience_s

    @property
    def is_settled(self) -> bool:
        """Whether steps that wait may go on: into the sandbox, or away because of `reason`."""
        if self.cancelled.is_set() or self.state.reason:
            return True
        if self.state.name == "ready":
            return self.state.gathered or not self.request.is_gang
        return self.state.name != "accepted"

    def save_request(self) -> None:
        """Record the Prolog's word; `make_durable` follows when no hook waits any more."""
        content = {"uid": self.request.uid, "gid": self.request.gid}
        self._write(self.spool.request, {**content, "variables": self.request.variables})

    def advance(self, **changes: Any) -> None:
        """Change the state, on disk first, and wake whoever waits for it.

        Raises OSError when the disk does not take it; the state is what it was then.
        """
        with self.changed:
            self._write(self.spool.state, asdict(replace(self.state, **changes)))
            self._change(changes)

    def note(self, **changes: Any) -> None:
        """Change the state as `advance` does, but also where the disk does not take it.

        For what others wait for: an agent that starts later finds it out anew.
        """
        with self.changed:
            with contextlib.suppress(OSError):
                self._write(self.spool.state, asdict(replace(self.state, **changes)))
            self._change(changes)

    def _change(self, changes: dict[str, Any]) -> None:
        for name, value in changes.items():
            setattr(self.state, name, value)
        self.changed.notify_all()

    def say(self, text: str) -> None:
        """Tell the waiting steps why there is no sandbox yet."""
        with self.changed:
            if text != self.progress:
                said = self._said
                if said and text.startswith(said[-1]):  # the same with more to tell
                    said = said[:-1]
                self._said = [*said, text][-_MOST_WORDS:]
            self.progress = text
            self.changed.notify_all()

    def start_so_far(self) -> dict[str, Any]:
        """Return what the state tells of the start: seconds since the Prolog, and what was said."""
        since = max(0.0, time.time() - self.state.accepted_at)
        return {"start_s": round(since, 1), "start_words": list(self._said)}

    def announce(self, text: str) -> None:
        """Tell the waiting steps what is about to end them."""
        with self.changed:
            self.is_urgent = True
            self.say(text)

    def make_durable(self) -> None:
        """Bring the record to the disk itself."""
        sync_file(self.spool.request)

    def lose(self, why: str) -> None:
        """Note why the sandbox ended by itself."""
        with self.changed:
            self.lost = why
            self.changed.notify_all()

    def is_lost(self) -> bool:
        """Whether the sandbox was made and its first process is no more."""
        sandbox = self.state.sandbox
        return sandbox is not None and not kernel.is_alive(sandbox.init_pid, sandbox.init_start)

    def why_lost(self, timeout_s: float) -> str:
        """Return why the sandbox ended, waiting for the word; empty when it is there."""
        if not self.is_lost():
            return ""
        with self.changed:
            self.changed.wait_for(lambda: self.lost, timeout_s)
            return self.lost or NOBODY_TOLD

    def warn(self, text: str) -> None:
        """Add a line to the warnings of the summary."""
        try:
            with self.spool.warnings.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError:
            pass  # the disk is full: stderr and the log have it all the same

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        data = json.dumps(content, indent=1).encode()
        write_atomically(path, data, survives_power_loss=False)

    @classmethod
    def load(cls, run: RunId, spool: JobSpool, patience_s: float = 0.0) -> "JobRun":
        """Read a run from disk; raises OSError or ValueError when its record is unusable."""
        content = json.loads(spool.request.read_bytes())
        request = Request(run, content["uid"], content["gid"], content["variables"])
        return cls(request, spool, _read_state(spool.state), patience_s)


def _read_state(path: Path) -> State:
    """Return the state; a run whose state did not outlive a power loss begins anew."""
    try:
        values = json.loads(path.read_bytes())
        sandbox = values.pop("sandbox")
        return State(**values, sandbox=Sandbox(**sandbox) if sandbox else None)
    except (FileNotFoundError, ValueError):
        return State()
