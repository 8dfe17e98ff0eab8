"""A site in a folder: NAS folders, a Slurm of scripts, and a real watcher process on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge import config
from bridge.as_user import User
from bridge.config import Config

ROOT = Path(__file__).parents[3]
PATIENCE_S = 20.0

# Its files steer it: `refusal` is what it says instead of a job id; while `hold-before` or
# `hold-after` exist it waits, before or after it has taken the job; `lost-answer` is what it
# says although it took the job. `jobs` are the jobs it took, `calls` its arguments.
SBATCH = r"""
here=${0%/*}
cat > "$here/script"
echo "$*" >> "$here/calls"
[ ! -e "$here/refusal" ] || { cat "$here/refusal" >&2; exit 1; }
while [ -e "$here/hold-before" ]; do sleep 0.02; done
for word; do case $word in --comment=*) comment=${word#--comment=} ;; esac; done
exec 9>> "$here/jobs"
flock 9
id=$(($(wc -l < "$here/jobs") + 1))
echo "$id|$(date +%s)|$comment" >&9
exec 9>&-
while [ -e "$here/hold-after" ]; do sleep 0.02; done
[ ! -e "$here/lost-answer" ] || { cat "$here/lost-answer" >&2; exit 1; }
echo "$id"
"""
SQUEUE = r"""
here=${0%/*}
[ ! -e "$here/down" ] || { cat "$here/down" >&2; exit 1; }
[ ! -e "$here/jobs" ] || cat "$here/jobs"
"""
NOT_REACHED = (
    "sbatch: error: Batch job submission failed: "
    "Unable to contact slurm controller (connect failure)\n"
)
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
GOOD = b"#!/bin/sh\necho hello\n"


def wait_for(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until `condition` is true and return its value."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Site:
    """Everything that one watcher works on; its users' files belong to `user`."""

    root: Path
    user: User
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    watchers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = {
            "nas": {name: str(self.root / name) for name in ("submit", "processed", "failed")}
            | {"results": str(self.root / "results")},
            "watcher": {
                "state_dir": str(self.root / "state"),
                "scan_interval_s": 0.1,
                "settle_s": 0.1,
                "doubt_settle_s": 0.3,
                "min_uid": 1,
            },
            "slurm": {"bin_dir": str(self.root / "slurm"), "conf": "/etc/slurm.conf"},
            "logging": {"dir": str(self.root / "log"), "level": "debug"},
        }
        for folder in (self.submit, self.processed, self.failed, self.slurm):
            folder.mkdir()
            folder.chmod(0o1777)
        self.command("sbatch", SBATCH)
        self.command("squeue", SQUEUE)
        self.command("sacct", SQUEUE)
        self.command("scontrol", "echo AccountingStoreFlags = job_comment")
        self.command("sdiag", "echo DBD Agent queue size: 0")

    @property
    def submit(self) -> Path:
        return self.root / "submit"

    @property
    def claims(self) -> Path:
        return self.submit / ".sbridge"

    @property
    def processed(self) -> Path:
        return self.root / "processed"

    @property
    def failed(self) -> Path:
        return self.root / "failed"

    @property
    def slurm(self) -> Path:
        return self.root / "slurm"

    def command(self, name: str, body: str) -> None:
        path = self.slurm / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def config(self) -> Config:
        return config.parse(self.toml(), "test.toml")

    def toml(self) -> str:
        lines = []
        for table, values in self.settings.items():
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"

    def make(self, path: Path, content: bytes = GOOD) -> Path:
        """Write a file of the user's; under another name first, so that nobody sees a half."""
        draft = path.with_name(f".draft-{os.getpid()}")
        draft.write_bytes(content)
        return self.move_in(draft, path)

    def move_in(self, source: Path, path: Path) -> Path:
        """Give something to the user and move it to its place."""
        if os.geteuid() == 0:
            os.chown(source, self.user.uid, self.user.gid, follow_symlinks=False)
        source.rename(path)
        return path

    def drop(self, name: str, content: bytes = GOOD) -> Path:
        return self.make(self.submit / name, content)

    def steer(self, name: str, text: str = "") -> Path:
        """Tell the scripts that stand for Slurm what to do."""
        path = self.slurm / name
        path.write_text(text)
        path.chmod(0o666)
        return path

    def jobs(self) -> list[str]:
        """Return the comment of every job that Slurm took."""
        path = self.slurm / "jobs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("|", 2)[2] for line in lines]

    def calls(self) -> int:
        path = self.slurm / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a watcher process."""
        path = self.root / "sbridge.toml"
        path.write_text(self.toml())
        watcher = subprocess.Popen(
            [sys.executable, "-m", "watcher", "--config", str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stderr=subprocess.PIPE,
        )
        self.watchers.append(watcher)
        return watcher

    def kill(self) -> None:
        """End the newest watcher with SIGKILL."""
        self.watchers[-1].kill()
        self.watchers[-1].wait()

    def stop(self) -> int:
        """End the newest watcher with SIGTERM; return its exit code."""
        self.watchers[-1].terminate()
        return self.watchers[-1].wait(PATIENCE_S)

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """Return the log's lines, those of one event or all."""
        path = self.root / "log/watcher.log"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [line for line in events if not event or line["event"] == event]

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def wait_for_event(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.log(event)) >= count, f"{count} × {event} in {self.log()}")
        return self.log(event)


@pytest.fixture
def site(open_dir: Path, ordinary: User) -> Iterator[Site]:
    """Give a site; its watchers are ended with it."""
    made = Site(open_dir, ordinary)
    yield made
    for name in ("hold-before", "hold-after"):
        (made.slurm / name).unlink(missing_ok=True)
    for watcher in made.watchers:
        if watcher.poll() is None:
            watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        assert watcher.stderr is not None
        watcher.stderr.close()
    crashes = made.log("child_crashed")
    shutil.rmtree(made.root / "log", ignore_errors=True)
    assert not crashes
