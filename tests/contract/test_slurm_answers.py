"""bridge.slurm reads the same out of what each release of Slurm really answered.

record_slurm.py recorded the answers; a new release is one more file.
"""

from pathlib import Path

import pytest

from bridge import command
from bridge.config import Slurm
from bridge.request import SandboxRequest, find, without_request
from bridge.slurm import table
from bridge.slurm.jobs import NodeShare, SlurmControl, kib, seconds
from bridge.slurm.lookup import SubmissionLookup
from tests.contract.recorded_slurm import ANSWERS, MARK, NAME, OWN_EXTRA, TAG, RecordedSlurm

RELEASES = sorted(path.stem for path in ANSWERS.glob("*.json"))
IMAGE = "localhost/sbridge-demo:latest"


@pytest.fixture(params=RELEASES)
def slurm(request, monkeypatch) -> RecordedSlurm:
    recorded = RecordedSlurm(request.param)
    monkeypatch.setattr(command, "run", recorded.run)
    monkeypatch.setattr(table, "new_mark", lambda: MARK)
    return recorded


@pytest.fixture
def control(slurm) -> SlurmControl:
    return SlurmControl(Slurm())


def test_the_oldest_and_the_newest_release_are_among_the_recorded():
    assert {"22.05", "24.11", "26.05"} <= set(RELEASES)


def test_an_ended_job_is_read(slurm, control):
    job_id = slurm.jobs["failed"]
    job = control.job(job_id)
    assert (job.state, job.is_over) == ("FAILED", True)
    assert job.fields["JobName"] == NAME
    assert job.fields["ExitCode"] == "3:0"
    assert job.fields["Reason"] == "NonZeroExitCode"
    assert (job.fields["QOS"], job.fields["Account"]) == ("normal", "lab")
    assert job.fields["WorkDir"] == "/home/alice"
    out = f"/home/alice/contract-{job_id}.out"
    assert (job.fields["StdOut"], job.fields["StdErr"]) == (out, out)


def test_an_ended_jobs_record_is_read(slurm, control):
    record = control.accounted(slurm.jobs["failed"])
    assert (record["State"], record["ExitCode"]) == ("FAILED", "3:0")
    assert (record["User"], record["JobName"]) == ("alice", NAME)
    # 22.05 says 0 of jobs that are over in seconds.
    assert (kib(record["MaxRSS"]) > 0) == (slurm.release != "22.05")
    assert seconds(record["TotalCPU"]) is not None


def test_a_running_job_and_its_share_of_each_node_are_read(slurm, control):
    job = control.job(slurm.jobs["running"])
    assert (job.state, job.is_over) == ("RUNNING", False)
    first, second = (job.share_of(node) for node in slurm.nodes)
    assert sorted([first.cpus, second.cpus]) == [1, 2]
    assert first == NodeShare(first.cpus, 100 * first.cpus)


def test_a_job_whose_prolog_never_spoke_is_told_with_its_request(slurm, control):
    variables = control.prolog_variables(slurm.jobs["running"], slurm.nodes[0])
    extra, comment = variables["SLURM_JOB_EXTRA"], variables["SLURM_JOB_COMMENT"]
    assert find(extra, comment) == SandboxRequest(image=IMAGE)
    assert without_request(comment) == "my Extra=own"
    assert without_request(extra) in {"", OWN_EXTRA}
    assert variables["SLURM_JOB_USER"] == "alice"
    assert variables["SLURM_JOB_RESTART_COUNT"] == "0"


def test_a_held_array_is_read(slurm, control):
    job = control.job(slurm.jobs["array"])
    assert (job.state, job.is_over) == ("PENDING", False)


def test_what_runs_on_a_node_is_read(slurm, control):
    assert control.jobs_on(slurm.nodes[0]) == {slurm.jobs["running"]}
    assert control.nodes() == slurm.nodes
    assert control.slurmd_spool_dir("n1") == Path("/srv/dev/spool/slurmd-n1")
    assert control.is_drained_by_us(slurm.nodes[0])


def test_a_submission_is_found_by_its_tag_and_another_is_not(slurm):
    found = SubmissionLookup(Slurm()).find(0, {TAG, "unknown"}, 0.0)
    assert {tag: job.job_id for tag, job in found.items()} == {TAG: slurm.jobs["array"]}
    assert all(job.submitted for job in found.values())
