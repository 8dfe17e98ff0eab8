"""The development cluster that is measured, and one row of what comes out."""

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
DEV_CLUSTER = SCRIPTS / "dev-cluster"
KUBERNETES = SCRIPTS / "kubernetes"
USER = "alice"
IMAGE = "localhost/sbridge-demo:latest"
TIMEOUT_S = 180.0


class Cluster:
    """The development cluster that is measured, with one runtime."""

    def __init__(self, state: Path, runtime: str) -> None:
        self.state = state
        self.runtime = runtime
        self.environment = {
            **os.environ,
            "SBRIDGE_DEV_STATE": str(state),
            "SBRIDGE_K8S_STATE": f"{state}-kubernetes",
        }

    def up(self) -> None:
        subprocess.run(
            [DEV_CLUSTER, "up", "--runtime", self.runtime],
            env=self.environment,
            stdout=sys.stderr,
            check=True,
        )
        programs = f"{self.state}/prefix/bin:{os.environ['PATH']}"
        if self.runtime == "kubernetes":
            exports = self.run(str(KUBERNETES), "env")
            self._export(exports)
            programs += ":" + re.findall(r'PATH=(\S+):"\$PATH"', exports)[0]
        self._export(self.dev_cluster("env"))
        self.environment["PATH"] = programs
        self.bin = self.state / "prefix" / "bin"
        self.nas = Path(self.environment["SBRIDGE_NAS"])

    def _export(self, lines: str) -> None:
        for name, value in re.findall(r"^export (\w+)='?([^'\n]*)'?$", lines, re.MULTILINE):
            self.environment[name] = value

    def down(self) -> None:
        for script in (DEV_CLUSTER, *([KUBERNETES] if self.runtime == "kubernetes" else [])):
            subprocess.run(
                [script, "down", "--purge"], env=self.environment, stdout=sys.stderr, check=True
            )

    def dev_cluster(self, *arguments: str, stdin: str = "") -> str:
        return subprocess.run(
            [DEV_CLUSTER, *arguments],
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def run(self, *argv: str) -> str:
        """Run a command of the administrator's and return what it printed."""
        return subprocess.run(
            argv, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    def sbatch(self, script: str, *options: str) -> int:
        text = self.dev_cluster("as", USER, "sbatch", "--parsable", *options, stdin=script)
        return int(text.split(";")[0])

    def wait_for(
        self, condition: Callable[[], object], what: str, interval_s: float = 0.01
    ) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: {what} did not happen within {TIMEOUT_S:g} s")
            time.sleep(interval_s)

    def wait_until_idle(self) -> None:
        """Wait for the end of all jobs, asking so seldom that the asking is no load."""
        self.wait_for(lambda: not self.run("squeue", "-h"), "the end of all jobs", 0.1)

    def folder(self) -> Path:
        """Return an empty folder that the test user may write to."""
        path = self.nas / "bench"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        path.chmod(0o777)
        return path


def sandboxed(body: str) -> str:
    """Return a job script that runs in a sandbox."""
    return f"#!/bin/bash\n#SBATCH --mem=400\n#K8S_IMAGE={IMAGE}\n{body}"


def native(body: str) -> str:
    """Return the same as a plain Slurm job."""
    return f"#!/bin/bash\n#SBATCH --mem=400\n{body}"


def percentile(values: list[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class Result:
    """One row: what was measured, the value, and the goal it is held against."""

    def __init__(
        self, name: str, value: float, unit: str, goal: str, reached: bool, **more: object
    ) -> None:
        self.row = {
            "name": name,
            "value": round(value, 3),
            "unit": unit,
            "goal": goal,
            "reached": reached,
        }
        self.row.update(more)
