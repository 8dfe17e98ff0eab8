"""A job as a test submits it, and how it ended."""

from pathlib import Path

from tests.integration.running_cluster import Cluster, own_stderr


def script(body: str, image: str = "", interpreter: str = "/bin/sh", header: str = "") -> str:
    """Return a job script; without an image it is a plain Slurm job's."""
    directive = f"#K8S_IMAGE={image}\n" if image else ""
    return f"#!{interpreter}\n#SBATCH --mem=100\n{header}{directive}{body}"


class Submitted:
    """A job with its two streams in files of their own; what they hold, and what Slurm says."""

    def __init__(self, cluster: Cluster, job_id: int, out: Path, err: Path) -> None:
        self._cluster = cluster
        self.job_id = job_id
        self._out = out
        self._err = err

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    @property
    def own_err(self) -> str:
        """What is in stderr but for what sbridge says of a slow start."""
        return own_stderr(self._err).decode() if self._err.exists() else ""

    @property
    def end(self) -> tuple[str, str]:
        """State and exit code, once the job has ended."""
        return self.wait(), self._cluster.job_field(self.job_id, "ExitCode")

    def wait(self, timeout: float = 60) -> str:
        """Wait until the job has ended; returns its state."""
        return self._cluster.wait_job(self.job_id, timeout=timeout)

    def wait_to_say(self, text: str, timeout: float = 30) -> None:
        """Wait until the job's stderr holds a text."""
        self._cluster.wait_for(
            lambda: text in self.err, timeout, lambda: f"{text!r} in {self.err!r}"
        )

    def wait_to_write(self, text: str = "ready", timeout: float = 30) -> "Submitted":
        """Wait until the job's stdout holds a text."""
        self._cluster.wait_for(lambda: text in self.out, timeout, lambda: f"{text!r}: {self.err}")
        return self


class Held:
    """A job that runs until it is let go, and then ends with exit code 7."""

    WENT_ON = ("FAILED", "7:0")

    def __init__(self, ran: Submitted, go: Path) -> None:
        self.ran = ran
        self._go = go

    def wait_to_run(self) -> "Held":
        """Wait until the script runs."""
        self.ran.wait_to_write("ready", timeout=60)
        return self

    def let_go(self) -> tuple[str, str]:
        """Let it end by itself; returns its state and exit code."""
        self._go.touch()
        return self.ran.end
