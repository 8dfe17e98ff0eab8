"""Every path of a job on its node, in one place.

<spool_dir>/<node>/jobs/<jobid>.<restart>/   0711 root
request.json   what the Prolog said           0600 root
state.json     where the job's sandbox stands  0600 root
manifest.json  the pod as the runtime got it   0600 root
out/           stdout.log, stderr.log, outputs/ 0700 the user's
warnings       what the summary must mention, a line each  0600 root
usage          what each ended step has used, a line each  0600 root
share/         passwd and group that know the user  0755 root, read-only inside
steps/         a folder for each entered step: the door to Slurm's commands  0755 root
script/        seen inside as slurmd's SlurmdSpoolDir: the batch script, and places for what
               steps are shown of PMIx  0711 root
<spool_dir>/<node>/share/    the same for all jobs: init; seen inside at /sbridge
<spool_dir>/<node>/key       what no image can know  0600 root
<spool_dir>/.out/<jobid>     → the latest run's out/ on the batch host: where sbatch -o of a
                                   NAS job points; one folder for all agents of a host
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class RunId:
    """One run of a job: its id, and how often it was restarted before."""

    job_id: int
    restart: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.restart}"

    @classmethod
    def parse(cls, text: str) -> "RunId":
        """Read "<jobid>.<restart>"; raises ValueError for anything else."""
        job_id, _, restart = text.partition(".")
        if not (job_id.isascii() and job_id.isdigit() and restart.isascii() and restart.isdigit()):
            raise ValueError(f"not a run: {text!r}")
        return cls(int(job_id), int(restart))


@dataclass(frozen=True)
class JobSpool:
    """The folder of one run."""

    root: Path

    @property
    def request(self) -> Path:
        return self.root / "request.json"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def warnings(self) -> Path:
        return self.root / "warnings"

    @property
    def usage(self) -> Path:
        return self.root / "usage"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def stdout(self) -> Path:
        return self.out / "stdout.log"

    @property
    def stderr(self) -> Path:
        return self.out / "stderr.log"

    @property
    def outputs(self) -> Path:
        return self.out / "outputs"

    @property
    def share(self) -> Path:
        return self.root / "share"

    @property
    def steps(self) -> Path:
        return self.root / "steps"

    @property
    def slurmd(self) -> Path:
        return self.root / "script"


@dataclass(frozen=True)
class NodeSpool:
    """The folder of one node's agent."""

    root: Path

    @classmethod
    def of(cls, spool_dir: Path, node: str) -> "NodeSpool":
        return cls(spool_dir / node)

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def share(self) -> Path:
        return self.root / "share"

    @property
    def out_links(self) -> Path:
        """The same for all nodes of one host; no node name begins with a dot."""
        return self.root.parent / ".out"

    def job(self, run: RunId) -> JobSpool:
        return JobSpool(self.jobs / str(run))

    def out_link(self, job_id: int) -> Path:
        return self.out_links / str(job_id)

    def runs(self) -> list[RunId]:
        """Return the runs that have a folder, oldest first; foreign names are passed over."""
        found = []
        for entry in self.jobs.iterdir():
            try:
                found.append(RunId.parse(entry.name))
            except ValueError:
                continue
        return sorted(found)


def slurmd_script(job_id: int) -> Path:
    """Return where slurmd spools a job's script, in its SlurmdSpoolDir."""
    return Path(f"job{job_id:05d}", "slurm_script")


def nas_output_pattern(spool_dir: Path, stream: str) -> str:
    """Return the sbatch filename pattern of a NAS job's `stream` ("stdout" or "stderr").

    %j is the job id, expanded by slurmd. There is no pattern for the node's name: %N is the
    host's, which is another one where several slurmd share a host.
    """
    return f"{spool_dir}/.out/%j/{stream}.log"
