"""Which drains the agent takes back, and when; what it ends that has no job any more."""

import os
import shutil

import pytest

from bridge.agent.job import Request
from bridge.agent.node_health import NodeHealth
from bridge.agent.reconcile import reconcile
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Agent, Config, Podman
from bridge.errors import NodeError, TemporaryError
from bridge.runtimes.host import HostRuntime
from bridge.slurm.jobs import SlurmControl

OURS = "sbridge: podman cannot start x"


@pytest.fixture
def control(slurm):
    return SlurmControl(slurm)


@pytest.fixture
def sandboxes(tmp_path, control, log, clock):
    agent = Agent(spool_dir=tmp_path, runtime="host", allowed_runtimes=("host",))
    config = Config(agent=agent, podman=Podman(command=str(tmp_path / "no-podman")))
    made = Sandboxes(config, "n1", control, None, log, lambda job: None)
    made.health = NodeHealth(made.node.spool, [HostRuntime()], clock)
    made.node.spool.jobs.mkdir(parents=True)
    made.node.spool.out_links.mkdir()
    return made


@pytest.fixture
def has_run(sandboxes):
    """Give this node a run with a sandbox, of a job that Slurm does not know."""

    def has_run(job_id, runtime, **state):
        names = ("SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GID")
        ids = (job_id, os.getuid(), os.getgid())
        job, _ = sandboxes.runs.record(Request.of(dict(zip(names, map(str, ids), strict=True))))
        name = f"slurm-job-{job_id}"
        job.advance(name="ready", runtime=runtime, sandbox_name=name, **state)
        return job

    return has_run


@pytest.fixture
def drained(command, open_dir):
    """Let Slurm say that n1 is drained; returns what it was told to do with it."""
    told = open_dir / "told"
    told.touch()

    def drained(reason, state="IDLE+DRAIN"):
        command("squeue", "")
        shown = f"NodeName=n1 State={state} Reason={reason} [root@2026-11-22T05:07:42]"
        command(
            "scontrol",
            f'case $1 in update) echo "$*" >>{told} ;; *) echo "{shown}" ;; esac',
        )
        return lambda: told.read_text().splitlines()

    return drained


RESUMED = ["update NodeName=n1 State=RESUME"]


def test_a_node_that_our_hook_drained_is_resumed(sandboxes, control, log, drained):
    told = drained("sbridge: prepare of job 7: no answer")
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert log.events == ["node_resumed"]


@pytest.mark.parametrize(
    ("reason", "state"),
    [("disk swap, Kim", "IDLE+DRAIN"), ("Prolog error", "IDLE+DRAIN"), (OURS, "DOWN")],
)
def test_what_others_decided_about_a_node_stays(sandboxes, control, log, drained, reason, state):
    told = drained(reason, state)
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_fault_that_was_just_found_is_not_looked_at_yet(sandboxes, control, log, drained):
    told = drained(OURS)
    sandboxes.health.found_fault()
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_passing_fault_is_over_once_a_look_finds_nothing(sandboxes, control, log, drained, clock):
    told = drained(OURS)
    sandboxes.health.found_fault()
    clock.now += 5
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert not sandboxes.health.is_due


def test_a_fault_that_is_still_there_keeps_the_node_drained(
    sandboxes, control, log, drained, clock
):
    told = drained(OURS)
    jobs = sandboxes.node.spool.jobs
    sandboxes.health.found_fault()
    shutil.rmtree(jobs)
    clock.now += 5
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []
    assert log.events == ["node_still_at_fault"]
    jobs.mkdir()
    clock.now += 10
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED


def test_a_node_that_an_earlier_agent_drained_is_looked_at_before_it_is_resumed(
    sandboxes, control, log, drained
):
    told = drained(OURS)
    sandboxes.node.spool.jobs.rmdir()
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []


def test_a_node_that_an_administrator_resumed_is_watched_no_more(
    sandboxes, control, log, drained, clock
):
    told = drained(OURS, state="IDLE")
    sandboxes.health.found_fault()
    clock.now += 5
    assert sandboxes.health.is_due
    assert reconcile(sandboxes, control, "n1", log)
    assert told() == []
    assert not sandboxes.health.is_due


def test_a_slurm_that_cannot_be_asked_leaves_everything_as_it_is(
    sandboxes, control, log, command, clock
):
    command("squeue", "")
    command("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    sandboxes.health.found_fault()
    clock.now += 5
    assert not reconcile(sandboxes, control, "n1", log)
    assert sandboxes.health.is_due


def test_a_runtime_that_cannot_be_asked_keeps_no_node_from_being_resumed(
    sandboxes, control, log, drained, monkeypatch
):
    def away():
        raise TemporaryError("the Kubernetes API does not answer")

    told = drained(OURS)
    monkeypatch.setattr(sandboxes.runtimes, "strays", away)
    assert not reconcile(sandboxes, control, "n1", log)
    assert told() == RESUMED
    assert log.events == ["reconcile_delayed", "node_resumed"]


# --- What has no job ---


def knows(sandboxes, **runtimes):
    sandboxes.runtimes._known.update(runtimes)


def test_an_orphan_is_removed_where_podman_is_neither_installed_nor_configured(
    sandboxes, control, log, drained, pods
):
    drained(OURS, state="IDLE")
    cluster = pods("slurm-job-7", "slurm-job-8-n1-r2", "somebody-elses")
    knows(sandboxes, kubernetes=cluster)
    assert reconcile(sandboxes, control, "n1", log)
    assert cluster.there == {"somebody-elses"}
    assert log.lines == [
        ("orphan_removed", {"job_id": 7, "sandbox": "slurm-job-7"}),
        ("orphan_removed", {"job_id": 8, "sandbox": "slurm-job-8-n1-r2"}),
    ]


def test_a_runtime_that_cannot_be_asked_keeps_no_orphan_of_another(
    sandboxes, control, log, drained, pods
):
    drained(OURS, state="IDLE")
    cluster = pods("slurm-job-7")
    knows(sandboxes, podman=pods(away="it does not answer"), kubernetes=cluster)
    sandboxes.runtimes._allowed.add("podman")
    assert not reconcile(sandboxes, control, "n1", log)
    assert cluster.there == set()
    assert log.events == ["reconcile_delayed", "orphan_removed"]


def test_an_orphan_that_stays_keeps_no_other_one(sandboxes, control, log, drained, pods):
    drained(OURS, state="IDLE")
    cluster = pods("slurm-job-7", "slurm-job-8", stuck={"slurm-job-7"})
    knows(sandboxes, kubernetes=cluster)
    assert not reconcile(sandboxes, control, "n1", log)
    assert cluster.there == {"slurm-job-7"}
    assert log.events == ["reconcile_failed", "orphan_removed"]


def test_a_lost_run_that_cannot_be_ended_keeps_no_later_one_and_no_orphan(
    sandboxes, control, log, drained, pods, has_run
):
    drained(OURS, state="IDLE")
    names = ("slurm-job-7", "slurm-job-8", "slurm-job-9", "slurm-job-10")
    cluster = pods(*names, stuck={"slurm-job-7"}, broken={"slurm-job-8"})
    knows(sandboxes, kubernetes=cluster)
    for job_id in (7, 8, 9):
        has_run(job_id, "kubernetes")
    assert not reconcile(sandboxes, control, "n1", log)
    assert cluster.there == {"slurm-job-7", "slurm-job-8"}
    failed = {"run": "7.0", "sandbox": "slurm-job-7"}
    assert ("reconcile_failed", {**failed, "reason": "slurm-job-7 stays"}) in log.lines
    assert log.events == [
        *("run_lost", "reconcile_failed"),
        *("run_lost", "reconcile_crashed"),
        *("run_lost", "sandbox_removed"),
        "orphan_removed",
    ]


def test_a_lost_run_of_a_runtime_without_access_is_said_and_kept(
    sandboxes, control, log, drained, has_run
):
    drained(OURS, state="IDLE")
    job = has_run(7, "kubernetes")
    assert not reconcile(sandboxes, control, "n1", log)
    assert job.state.name == "ready"
    ((_, facts),) = [line for line in log.lines if line[0] == "reconcile_failed"]
    assert facts["run"] == "7.0"
    assert (
        "sandbox slurm-job-7 cannot be removed: nothing configures runtime kubernetes"
        in (facts["reason"])
    )


def test_a_run_that_the_full_disk_kept_from_its_end_ends_with_what_the_epilog_said(
    sandboxes, control, log, drained, pods, has_run, full_disk
):
    drained(OURS, state="IDLE")
    job = has_run(7, "kubernetes")
    knows(sandboxes, kubernetes=pods("slurm-job-7"))
    said = {**job.request.variables, "SLURM_JOB_EXIT_CODE": "256"}
    with full_disk(), pytest.raises(NodeError, match=r"7\.0 cannot be written: No space left"):
        sandboxes.finish(said)
    assert job.state.name == "ready"
    assert reconcile(sandboxes, control, "n1", log)
    assert job.state.name == "finished"
    assert job.state.finish == said
    assert not job.spool.warnings.exists()
