"""What stays on the disk of a job that could not be recorded, or is no run's."""

import errno
import grp
import os
import pwd
import time
from types import SimpleNamespace

import pytest

from bridge.agent import blueprint
from bridge.agent.job import Request
from bridge.agent.runs import Runs
from bridge.agent.this_node import ThisNode
from bridge.config import Agent, Config
from bridge.errors import NodeError

VARIABLES = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": "1000", "SLURM_JOB_GID": "1000"}
REQUEST = Request.of(VARIABLES)


@pytest.fixture
def runs(tmp_path):
    config = Config(agent=Agent(spool_dir=tmp_path, runtime="host", allowed_runtimes=("host",)))
    log = SimpleNamespace(info=lambda *_, **__: None)
    made = Runs(ThisNode("n1", config, None, log))
    made.spool.jobs.mkdir(parents=True)
    return made


@pytest.fixture
def full_disk(monkeypatch):
    def furnish(job, *_):
        job.spool.out.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blueprint, "furnish_job", furnish)


def test_the_prolog_does_not_wait_for_the_user_databases(runs, monkeypatch):
    def asked(*_):
        raise AssertionError("a directory server that is slow would hold the Prolog")

    for module, name in ((pwd, "getpwuid"), (grp, "getgrgid"), (os, "getgrouplist")):
        monkeypatch.setattr(module, name, asked)
    runs.spool.out_links.mkdir()
    own = {"SLURM_JOB_UID": str(os.getuid()), "SLURM_JOB_GID": str(os.getgid())}
    job, is_new = runs.record(Request.of({**VARIABLES, **own, "SLURM_JOB_NODELIST": "n1"}))
    assert is_new
    assert job.spool.request.exists()
    assert job.spool.outputs.is_dir()


def test_a_job_that_cannot_be_recorded_leaves_no_folder(runs, full_disk):
    with pytest.raises(NodeError, match=r"jobs/7\.0 cannot be written: No space left on device"):
        runs.record(REQUEST)
    assert list(runs.spool.jobs.iterdir()) == []
    assert runs.all() == []


def test_a_folder_with_a_record_that_could_not_be_read_is_kept(runs, full_disk):
    folder = runs.spool.jobs / "7.0"
    folder.mkdir()
    (folder / "request.json").write_text("{")
    with pytest.raises(NodeError):
        runs.record(REQUEST)
    assert (folder / "request.json").read_text() == "{"


@pytest.mark.parametrize(
    ("age_s", "has_record", "stays"), [(7200, False, False), (7200, True, True), (60, False, True)]
)
def test_an_old_folder_that_is_no_runs_is_removed(runs, age_s, has_record, stays):
    folder = runs.spool.jobs / "7.0"
    (folder / "share" / "group").mkdir(parents=True)
    if has_record:
        (folder / "request.json").write_text("{")
    long_ago = time.time() - age_s
    os.utime(folder, (long_ago, long_ago))
    runs.remove_remains()
    assert folder.exists() is stays
