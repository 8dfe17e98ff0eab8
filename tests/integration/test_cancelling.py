"""scancel in each phase of a job: answers, ends and outputs are the native ones.

A phase is held until every way to cancel was tried in it, each on a job of its own: by a hold of
Slurm's, by slow hooks of the site's around ours, by a registry that never answers, and by agents
that are stopped while our Epilog asks them.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.bad_registry import silent_registry
from tests.integration.fidelity.observed import in_words
from tests.integration.running_cluster import ENDED, Cluster
from tests.integration.submitted_job import Submitted, script

pytestmark = [pytest.mark.slurm, pytest.mark.podman]

DEMO = "localhost/sbridge-demo:latest"
# As many as the two nodes have CPUs: all jobs of a phase are in it at the same time.
WAYS = ("", "-b", "-f", "-s TERM", "-s USR1", "-s KILL", "-b -s USR1", "-f -s USR1")
WHOLE = {"", "-f", "-s KILL"}  # these end a job whatever it does
TRAPS = "trap 'echo TERM' TERM; trap 'echo USR1' USR1\n"
# What the shell says of a child's end depends on the moment.
BODY = """: >{folder}/$SLURM_JOB_ID.ready
while [ ! -e {folder}/go ]; do sleep 0.1; done 2>/dev/null
echo went on
"""
HOOK = """#!/bin/sh
PATH=/usr/bin:/bin
while [ -e {hold} ]; do : >{hold}.$SLURM_JOB_ID; sleep 0.1; done
exec {ours}
"""


@dataclass(frozen=True)
class SlowHook:
    """A hook of the site's that waits before it runs ours, as long as it is held."""

    name: str
    cluster: Cluster

    @property
    def path(self) -> Path:
        return self.cluster.prefix / "bin" / f"sbridge-{self.name}"

    @property
    def _ours(self) -> Path:
        return self.path.with_suffix(".ours")

    @property
    def _hold(self) -> Path:
        return self.cluster.state / f"hold-{self.name}"

    def install(self) -> None:
        slow = self.path.with_suffix(".slow")
        slow.write_text(HOOK.format(hold=self._hold, ours=self._ours))
        slow.chmod(0o755)
        os.link(self.path, self._ours)
        os.replace(slow, self.path)

    def remove(self) -> None:
        os.replace(self._ours, self.path)
        for path in self.cluster.state.glob(f"{self._hold.name}*"):
            path.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._hold.touch()
        try:
            yield
        finally:
            self._hold.unlink(missing_ok=True)

    def holds(self, job_id: int) -> bool:
        return self._hold.exists() and Path(f"{self._hold}.{job_id}").exists()


@dataclass
class Site:
    """The cluster, its slow hooks, and a folder of one round's jobs."""

    cluster: Cluster
    hooks: dict[str, SlowHook]
    folder: Path
    image: str = ""

    def state(self, ran: Submitted) -> str:
        return self.cluster.job_state(ran.job_id)

    def runs(self, ran: Submitted) -> bool:
        return (self.folder / f"{ran.job_id}.ready").exists()

    def let_go(self) -> None:
        """Let scripts end by themselves."""
        (self.folder / "go").touch()

    def about(self, ran: Submitted) -> str:
        return f"job {ran.job_id} is {self.state(ran)}; {ran.out}{ran.err}"


class Phase:
    """How a phase is held, and what signals do in it."""

    options: tuple[str, ...] = ()
    is_trapping = True
    signalled = False  # whether signals reach a script
    gone = frozenset({*ENDED, "COMPLETING"})  # what a job is in that was ended
    fatal = frozenset({*WHOLE, "-b"})

    @contextlib.contextmanager
    def held(self, site: Site) -> Iterator[None]:
        """Hold the phase for jobs that are submitted inside."""
        yield

    def bring(self, site: Site, jobs: list[Submitted]) -> None:
        """Do what brings submitted jobs to the phase."""

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        """Whether a job is in the phase."""
        raise NotImplementedError

    def release(self, site: Site, jobs: list[Submitted]) -> None:
        """Let the jobs that are left go on, where the end of the hold alone does not."""

    def certain(self, written: str) -> str:
        """Return what of a stream does not depend on the moment."""
        return written


class Pending(Phase):
    """Held by Slurm."""

    options = ("--hold",)

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        return site.state(ran) == "PENDING"

    def release(self, site: Site, jobs: list[Submitted]) -> None:
        for ran in jobs:
            if site.state(ran) == "PENDING":
                site.cluster.scontrol("release", str(ran.job_id))


class Prolog(Phase):
    """Held by the site's Prolog."""

    fatal = frozenset(WHOLE)

    @contextlib.contextmanager
    def held(self, site: Site) -> Iterator[None]:
        with site.hooks["prolog"].held():
            yield

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        return site.hooks["prolog"].holds(ran.job_id)

    def certain(self, written: str) -> str:
        # slurmctld keeps a signal back until the Prolog is over (_signal_defer in its agent.c), and
        # sends it while slurmd starts the script: too early for it, almost always.
        return re.sub(r"(?m)^(?:TERM|USR1|.* CANCELLED AT TIME .*)\n", "", written)


class Running(Phase):
    """Held by the script itself."""

    signalled = True
    gone = ENDED  # a script that traps SIGTERM goes on until KillWait is over

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        return site.runs(ran) and site.state(ran) == "RUNNING"


class Starting(Running):
    """Held by a registry that never answers; natively the script is there, without its traps."""

    is_trapping = signalled = False
    fatal = frozenset({*WHOLE, "-b", "-b -s USR1", "-f -s USR1"})

    @contextlib.contextmanager
    def held(self, site: Site) -> Iterator[None]:
        if not site.image:
            yield
            return
        with silent_registry() as registry:
            site.image = f"{registry}/demo:1"
            yield
            site.cluster.podman("tag", DEMO, site.image)

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        if not site.image:
            return super().is_seen(site, ran)
        return "pulling" in ran.err and not site.runs(ran) and site.state(ran) == "RUNNING"


class Completing(Running):
    """Held by our Epilog, whose agent is stopped; natively by the site's."""

    signalled = False
    gone = Phase.gone
    fatal = frozenset(WAYS)  # it has ended by itself

    @contextlib.contextmanager
    def held(self, site: Site) -> Iterator[None]:
        if not site.image:
            with site.hooks["epilog"].held():
                yield
            return
        try:
            yield
        finally:
            _signal_agents(site.cluster, signal.SIGCONT)

    def bring(self, site: Site, jobs: list[Submitted]) -> None:
        for ran in jobs:
            site.cluster.wait_for(lambda ran=ran: site.runs(ran), 60, lambda ran=ran: ran.err)
        if site.image:
            _signal_agents(site.cluster, signal.SIGSTOP)
        site.let_go()

    def is_seen(self, site: Site, ran: Submitted) -> bool:
        return site.state(ran) == "COMPLETING"


def _signal_agents(cluster: Cluster, number: signal.Signals) -> None:
    for name, pid in cluster.pids().items():
        if name.startswith("agent-"):
            os.kill(pid, number)


PHASES = {
    "pending": Pending(),
    "prolog": Prolog(),
    "sandbox starting": Starting(),
    "running": Running(),
    "completing": Completing(),
}


@pytest.fixture(scope="module")
def hooks(cluster):
    """Put hooks of the site's around ours, which nobody may run meanwhile."""
    cluster.wait_until_nothing_is_left(60)
    made = {name: SlowHook(name, cluster) for name in ("prolog", "epilog")}
    for hook in made.values():
        hook.install()
    yield made
    cluster.slurm("scancel", "--partition=main")
    cluster.wait_until_nothing_is_left(60)
    for hook in made.values():
        hook.remove()


@pytest.fixture
def site(cluster, hooks, shared_dir):
    """Give the site for a round of native jobs (""), or of sandboxed ones."""
    return lambda image: Site(cluster, hooks, shared_dir(), image)


def cancelled(site, phase, job):
    """Cancel a job in each way while it is in the phase; returns what was seen of each."""
    body = (TRAPS if phase.is_trapping else "") + BODY.format(folder=site.folder)
    with phase.held(site):
        text = script(body, site.image, "/bin/bash")
        jobs = [job(text, *phase.options) for _ in WAYS]
        phase.bring(site, jobs)
        for ran in jobs:
            site.cluster.wait_for(
                lambda ran=ran: phase.is_seen(site, ran), 60, lambda ran=ran: site.about(ran)
            )
        answers = [scancel(site.cluster, way, ran) for way, ran in zip(WAYS, jobs, strict=True)]
        site.cluster.wait_for(lambda: has_sent_all(site.cluster), 60)
        for way, ran in zip(WAYS, jobs, strict=True):
            wait_until_reached(site, phase, way, ran)
    phase.release(site, jobs)
    site.let_go()
    return {
        way: (answer, *ended(site.cluster, ran, phase.certain))
        for way, answer, ran in zip(WAYS, answers, jobs, strict=True)
    }


def scancel(cluster, way, ran):
    """Return how scancel ended and what it said; it would retry for minutes, and is ended then."""
    argv = ["scancel", "--verbose", *way.split(), str(ran.job_id)]
    environment = {**os.environ, **cluster.slurm_environment}
    said = []
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "retrying" in line:
                process.kill()
                return "retries", ""
            said.append(line)
    words = "".join(line for line in said if not line.startswith("scancel: select/"))
    return process.returncode, words.replace(str(ran.job_id), "JOB")


def has_sent_all(cluster):
    """Whether slurmctld has nothing more to tell to nodes: scancel does not wait for that."""
    return (
        len(re.findall(r"(?m)^Agent (?:queue size|count): *\t* *0$", cluster.slurm("sdiag"))) == 2
    )


def wait_until_gone(site, phase, ran):
    site.cluster.wait_for(lambda: site.state(ran) in phase.gone, 90, what=lambda: site.about(ran))


def wait_until_reached(site, phase, way, ran):
    """Wait for what the way does; those that do nothing in this phase leave the job in it."""
    if way in phase.fatal:
        wait_until_gone(site, phase, ran)
        return
    if phase.signalled and way in ("-b -s USR1", "-f -s USR1"):
        ran.wait_to_write("USR1")
    assert phase.is_seen(site, ran), site.about(ran)


def ended(cluster, ran, certain):
    """Return how a job ended, what is certain of what it wrote, and accounting's records of it."""
    state, code = ran.wait(120), cluster.job_field(ran.job_id, "ExitCode")

    def rows():
        sacct = ("sacct", "-n", "-P", "-j", str(ran.job_id), "-o", "JobID,State,ExitCode,End")
        return [row.split("|") for row in cluster.slurm(*sacct).splitlines()]

    cluster.wait_for(lambda: rows() and all(row[-1] != "Unknown" for row in rows()))
    records = [":".join(row[:-1]).replace(str(ran.job_id), "JOB") for row in rows()]
    err = re.sub(r"sbridge: image .*; trying again\n", "", ran.err)
    err = in_words(err.encode()).decode().replace(str(ran.job_id), "JOB")
    err = re.sub(r"\bn\d+\b", "NODE", err)
    return state, code, certain(ran.out), certain(err), records


@pytest.mark.parametrize("phase", PHASES.values(), ids=list(PHASES))
def test_a_job_is_cancelled_in_each_way_as_natively(cluster, site, job, phase):
    native = cancelled(site(""), phase, job)
    sandboxed = cancelled(site(DEMO), phase, job)
    assert sandboxed == native
    went_on = {way for way, seen in native.items() if seen[3].endswith("went on\n")}
    ended_by_itself = set(WAYS) if isinstance(phase, Completing) else set(WAYS) - phase.fatal
    assert went_on == ended_by_itself
    cluster.wait_until_nothing_is_left(60)
    assert cluster.drained_nodes() == {}
