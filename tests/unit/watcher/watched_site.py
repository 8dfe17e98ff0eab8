"""A site in a folder: NAS folders, a Slurm of scripts, and a real watcher process on them."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import structlog

from bridge import config_file
from bridge.as_user import User
from bridge.config import Config
from watcher.__main__ import main

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
[ -e "$here/jobs" ] || exit 0
for word in "$@"; do
    case $word in
    --format=%F*) mark=${word#--format=%F}; mark=${mark%%%V*} ;;
    --delimiter=*) mark=${word#*=} ;;
    esac
done
sed "s#^\([^|]*\)|\([^|]*\)|\(.*\)#\1$mark\2$mark\3$mark#" "$here/jobs"
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


class WatcherProcess:
    """A watcher forked off the tests, which is ten times as fast as a new interpreter."""

    def __init__(self, configuration: Path, environment: dict[str, str]) -> None:
        self._stderr, theirs = os.pipe()
        self.exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(configuration, environment, theirs)
        os.close(theirs)

    def _run(self, configuration: Path, environment: dict[str, str], stderr: int) -> NoReturn:
        code = 70
        try:
            os.dup2(stderr, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            os.environ.update(environment)
            structlog.reset_defaults()
            code = main(["--config", str(configuration)])
        except BaseException:  # noqa: BLE001 - the process must not become a second pytest
            traceback.print_exc()
        finally:
            os._exit(code)

    def stderr(self) -> str:
        """Return what the ended process wrote to stderr."""
        with open(self._stderr, closefd=False) as file:
            return file.read()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code, as subprocess gives it."""

        def has_ended() -> bool:
            if self.exit_code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.exit_code = os.waitstatus_to_exitcode(status) if pid else None
            return self.exit_code is not None

        wait_for(has_ended, "the watcher ends")
        assert self.exit_code is not None
        return self.exit_code

    def close(self) -> None:
        """End it in any case."""
        if self.exit_code is None:
            self.signal(signal.SIGKILL)
            self.wait()
        os.close(self._stderr)


@dataclass
class Site:
    """Everything that one watcher works on; its users' files belong to `user`."""

    root: Path
    user: User
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    watchers: list["WatcherProcess"] = field(default_factory=list)

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
        return config_file.parse(self.toml(), "test.toml")

    def toml(self) -> str:
        lines = []
        for table, values in self.settings.items():
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"

    def make(self, path: Path, content: bytes = GOOD, user: User | None = None) -> Path:
        """Write a file of the user's; under another name first, so that nobody sees a half."""
        draft = path.with_name(f".draft-{os.getpid()}")
        draft.write_bytes(content)
        return self.move_in(draft, path, user)

    def move_in(self, source: Path, path: Path, user: User | None = None) -> Path:
        """Give something to the user and move it to its place."""
        user = user or self.user
        if os.geteuid() == 0:
            os.chown(source, user.uid, user.gid, follow_symlinks=False)
        source.rename(path)
        return path

    def drop(self, name: str, content: bytes = GOOD, user: User | None = None) -> Path:
        return self.make(self.submit / name, content, user)

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

    def start(self, **environment: str) -> "WatcherProcess":
        """Start a watcher in a process of its own."""
        path = self.root / "sbridge.toml"
        path.write_text(self.toml())
        self.watchers.append(WatcherProcess(path, environment))
        return self.watchers[-1]

    def kill(self) -> None:
        """End the newest watcher with SIGKILL."""
        self.watchers[-1].signal(signal.SIGKILL)
        self.watchers[-1].wait()

    def stop(self) -> int:
        """End the newest watcher with SIGTERM; return its exit code."""
        self.watchers[-1].signal(signal.SIGTERM)
        return self.watchers[-1].wait()

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
