"""What an Epilog ends, and what it says when that cannot be."""

import errno
import os

import pytest

from bridge import wire
from bridge.agent.sandboxes import Sandboxes
from bridge.agent.server import Server
from bridge.config import Agent, Config, Podman

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_UID": str(os.getuid()),
    "SLURM_JOB_GID": str(os.getgid()),
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_JOB_COMMENT": "sbridge1?image=x",
}


@pytest.fixture
def finished():
    """Keep the runs that are handed to publication."""
    return []


@pytest.fixture
def sandboxes(tmp_path, log, finished):
    agent = Agent(spool_dir=tmp_path, runtime="host", allowed_runtimes=("host",))
    config = Config(agent=agent, podman=Podman(command=str(tmp_path / "no-podman")))
    made = Sandboxes(config, "n1", None, None, log, finished.append)
    made.node.spool.jobs.mkdir(parents=True)
    made.node.spool.out_links.mkdir()
    return made


@pytest.fixture
def offered(sandboxes, pods):
    """Offer a runtime in which these sandboxes are."""

    def offered(*names, **options):
        cluster = pods(*names, **options)
        sandboxes.runtimes._known["kubernetes"] = cluster
        sandboxes.runtimes.in_use.append(cluster)
        return cluster

    return offered


@pytest.fixture
def recorded(sandboxes):
    """Give this node a run with a sandbox."""

    def recorded(**variables):
        from bridge.agent.job import Request

        job, _ = sandboxes.runs.record(Request.of({**JOB, **variables}))
        job.advance(name="ready", runtime="kubernetes", sandbox_name="slurm-job-7")
        return job

    return recorded


@pytest.fixture
def epilog(sandboxes, log):
    """Say what the agent answers an Epilog with these variables."""
    server = object.__new__(Server)
    server._sandboxes = sandboxes
    server._log = log

    def epilog(**variables):
        fields = [(key, value.encode()) for key, value in {**JOB, **variables}.items()]
        return server._hook(wire.Message("finish", fields))

    return epilog


def test_a_sandbox_whose_record_could_not_be_read_is_ended_too(epilog, offered):
    cluster = offered("slurm-job-7", "slurm-job-77", "slurm-job-7-n2")
    assert epilog().kind == "ok"
    assert cluster.there == {"slurm-job-77", "slurm-job-7-n2"}


@pytest.mark.parametrize("counted", ["1", "2"], ids=["after", "before"])
def test_slurm_may_count_a_requeue_before_or_after_the_epilog(epilog, offered, counted):
    cluster = offered("slurm-job-7-r1", "slurm-job-7-r3")
    assert epilog(SLURM_JOB_RESTART_COUNT=counted).kind == "ok"
    assert cluster.there == {"slurm-job-7-r3"}


def test_a_sandbox_without_a_record_that_stays_drains_the_node(epilog, offered, sandboxes):
    offered("slurm-job-7", stuck={"slurm-job-7"})
    answer = epilog()
    assert (answer.kind, answer.text("text")) == ("failed", "slurm-job-7 stays")
    assert sandboxes.health.is_resting


def test_the_results_of_a_job_without_a_record_wait_for_its_sandbox(epilog, offered, finished):
    comment = {"SLURM_JOB_COMMENT": "sbridge1?image=x&tag=ab"}
    cluster = offered("slurm-job-7", stuck={"slurm-job-7"})
    assert epilog(**comment).kind == "failed"
    assert finished == []
    cluster.stuck = ()
    assert epilog(**comment).kind == "ok"
    assert cluster.there == set()
    assert [str(job.run) for job in finished] == ["7.0"]


def test_an_epilog_that_comes_twice_ends_the_run_once(epilog, recorded, offered, finished):
    cluster = offered("slurm-job-7")
    job = recorded()
    assert [epilog().kind for _ in range(2)] == ["ok", "ok"]
    assert cluster.there == set()
    assert finished == [job]


@pytest.mark.parametrize("comment", ["sbridge1?tag=ab", "sbridge1?image=%ff"])
def test_no_sandbox_is_looked_for_that_nobody_could_have_made(epilog, offered, comment):
    offered("slurm-job-7", stuck={"slurm-job-7"})
    assert epilog(SLURM_JOB_COMMENT=comment).kind == "ok"


def test_a_run_of_a_runtime_without_access_drains_the_node_and_says_so(epilog, recorded, log):
    job = recorded()
    answer = epilog()
    assert answer.kind == "failed"
    assert "slurm-job-7 cannot be removed: nothing configures runtime kubernetes any more" in (
        answer.text("text")
    )
    assert job.state.name == "ready"
    assert "hook_crashed" not in log.events


def test_a_run_of_a_runtime_that_jobs_may_not_have_any_more_is_ended(
    epilog, recorded, sandboxes, pods
):
    job = recorded()
    cluster = sandboxes.runtimes._known["kubernetes"] = pods("slurm-job-7")
    assert epilog().kind == "ok"
    assert cluster.there == set()
    assert job.state.name == "finished"


def test_a_disk_too_full_for_the_end_of_a_run_drains_the_node_and_loses_nothing(
    epilog, recorded, offered, full_disk, sandboxes, finished, log
):
    cluster = offered("slurm-job-7")
    job = recorded()
    with full_disk():
        answer = epilog(SLURM_JOB_EXIT_CODE="256")
    assert answer.kind == "failed"
    assert answer.text("text") == f"{job.spool.root} cannot be written: No space left on device"
    assert sandboxes.health.is_resting
    assert cluster.there == set()
    assert finished == []
    assert job.state.finish["SLURM_JOB_EXIT_CODE"] == "256"
    assert "hook_crashed" not in log.events
    assert epilog().kind == "ok"
    assert finished == [job]


def test_a_removal_that_the_system_refuses_drains_the_node(epilog, recorded, offered, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    cluster = offered("slurm-job-7")
    monkeypatch.setattr(cluster, "remove", refuse)
    recorded()
    answer = epilog()
    assert answer.kind == "failed"
    assert "sandbox slurm-job-7 cannot be removed: [Errno 24] Too many" in answer.text("text")


def test_a_sandbox_that_we_ended_did_not_end_by_itself(epilog, recorded, offered, monkeypatch):
    cluster = offered("slurm-job-7", stuck={"slurm-job-7"})
    job = recorded()
    assert epilog().kind == "failed"
    cluster.stuck = ()
    monkeypatch.setattr(job, "is_lost", lambda: True)  # as its processes were killed
    assert epilog().kind == "ok"
    assert not job.spool.warnings.exists()
