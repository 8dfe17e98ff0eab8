"""What stays on the disk of a job that could not be recorded."""

import errno
from types import SimpleNamespace

import pytest

from bridge.agent import blueprint
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Agent, Config
from bridge.errors import NodeError

VARIABLES = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}


@pytest.fixture
def sandboxes(tmp_path):
    config = Config(agent=Agent(spool_dir=tmp_path, runtime="host", allowed_runtimes=("host",)))
    made = Sandboxes(config, "n1", None, SimpleNamespace(), lambda job: None)
    made.spool.jobs.mkdir(parents=True)
    return made


@pytest.fixture
def full_disk(monkeypatch):
    def furnish(job, *_):
        job.spool.out.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blueprint, "furnish_job", furnish)


def test_a_job_that_cannot_be_recorded_leaves_no_folder(sandboxes, full_disk):
    with pytest.raises(NodeError, match=r"jobs/7\.0 cannot be written: No space left on device"):
        sandboxes.prepare(VARIABLES)
    assert list(sandboxes.spool.jobs.iterdir()) == []
    assert sandboxes.all() == []


def test_a_folder_with_a_record_that_could_not_be_read_is_kept(sandboxes, full_disk):
    folder = sandboxes.spool.jobs / "7.0"
    folder.mkdir()
    (folder / "request.json").write_text("{")
    with pytest.raises(NodeError):
        sandboxes.prepare(VARIABLES)
    assert (folder / "request.json").read_text() == "{"
