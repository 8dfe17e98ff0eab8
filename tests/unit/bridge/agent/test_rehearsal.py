"""A job that Slurm has not got: the same pod as a real one's, and folders that do not stay."""

import os
import pwd

import pytest

from bridge.agent import blueprint, rehearsal
from bridge.agent.job import JobRun, Request, State
from bridge.agent.rehearsal import Part
from bridge.config import Agent, Config
from bridge.config import Sandbox as SandboxSettings
from bridge.errors import PermanentError
from bridge.job_spool import NodeSpool
from bridge.runtimes import manifest
from bridge.slurm.jobs import NodeShare
from bridge.slurm.resources import Resources

USER = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == 1)


def config(tmp_path):
    init = tmp_path / "init"
    init.write_text("init")
    agent = Agent(spool_dir=tmp_path / "spool")
    return Config(agent=agent, sandbox=SandboxSettings(init=init, mounts=()))


def job_script(tmp_path, *lines):
    path = tmp_path / "job.sh"
    path.write_text("\n".join(["#!/bin/sh", *lines, "true", ""]))
    return path


def test_the_pod_is_the_one_that_the_agent_makes_of_the_same_job(tmp_path):
    settings = config(tmp_path)
    variables = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_UID": str(pwd.getpwnam(USER).pw_uid),
        "SLURM_JOB_GID": str(pwd.getpwnam(USER).pw_gid),
        "SLURM_JOB_USER": USER,
        "SLURM_JOB_ACCOUNT": "lab",
        "SLURM_JOB_PARTITION": "main",
        "SLURM_JOB_NODELIST": "n1,n2",
        "SLURM_JOB_GPUS": "0-1",
        "SLURM_JOB_COMMENT": "mine sbridge1?image=alpine&tag=ab",
    }
    request = Request.of(variables)
    node = NodeSpool.of(settings.agent.spool_dir, "n1")
    real = JobRun(request, node.job(request.run), State())
    spool = tmp_path / "slurmd"
    expected = blueprint.specification(real, settings, "n1", NodeShare(2, 100), spool)

    part = Part("alpine", USER, "lab", "main", 12, Resources(2, 100, 2, 2))
    job = rehearsal.job_of(part, settings, "n1")
    assert rehearsal.specification(part, job, settings, "n1", spool) == expected
    assert manifest.pod(expected, manifest.Site())["metadata"]["name"] == "slurm-job-12-n1"


def test_a_job_file_says_image_account_partition_and_resources(tmp_path):
    path = job_script(tmp_path, "#SBATCH -c 4 --mem=1G -A lab -p main", "#K8S_IMAGE=alpine:3")
    part = rehearsal.part_of(path, config(tmp_path))
    assert part == Part("alpine:3", "", "lab", "main", 0, Resources(4, 1024))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "asks for no sandbox"),
        (["#K8S_IMGE=x"], "no job file that can run:\nline 2: "),
        (["#SBATCH --mem=lots", "#K8S_IMAGE=x"], "cannot be read: 'lots' is no amount"),
    ],
)
def test_a_job_file_that_gives_no_pod_says_why(tmp_path, lines, words):
    with pytest.raises(PermanentError, match=words):
        rehearsal.part_of(job_script(tmp_path, *lines), config(tmp_path))


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PermanentError, match="cannot be read: No such file"):
        rehearsal.part_of(tmp_path / "none", config(tmp_path))


def test_given_resources_go_before_the_job_files():
    part = Part(resources=Resources(4, 1024, 1, 2))
    assert rehearsal.with_resources(part, None, None, None) == part
    changed = rehearsal.with_resources(part, 2, "0", 3)
    assert changed.resources == Resources(2, 0, 3, 2)


@pytest.mark.parametrize(("user", "words"), [("root", "not run as root"), ("nobody-here", "no us")])
def test_only_users_that_may_have_jobs_get_a_pod(tmp_path, user, words):
    with pytest.raises(PermanentError, match=words):
        rehearsal.job_of(Part("alpine", user), config(tmp_path), "n1")


def mine():
    return pwd.getpwuid(os.geteuid() or 1).pw_name


def test_the_folders_are_there_for_a_while_and_then_gone(tmp_path):
    settings = config(tmp_path)
    job = rehearsal.job_of(Part("alpine", mine()), settings, "n1")
    with rehearsal.furnished(job, settings, "n1"):
        assert job.spool.out.is_dir()
        assert (job.spool.share / "passwd").is_file()
    assert not settings.agent.spool_dir.exists()


def test_what_an_agent_has_in_its_spool_stays(tmp_path):
    settings = config(tmp_path)
    job = rehearsal.job_of(Part("alpine", mine(), job_id=7), settings, "n1")
    spool = NodeSpool.of(settings.agent.spool_dir, "n1")
    blueprint.furnish_node(spool, settings.sandbox.init)
    before = sorted(settings.agent.spool_dir.rglob("*"))
    with rehearsal.furnished(job, settings, "n1"):
        assert spool.out_link(7).is_symlink()
        with (
            pytest.raises(PermanentError, match="job 7 has a folder on node n1"),
            rehearsal.furnished(job, settings, "n1"),
        ):
            pass
        assert job.spool.out.is_dir()
    assert sorted(settings.agent.spool_dir.rglob("*")) == before


def test_where_the_folders_cannot_be_made_the_right_place_is_named(tmp_path):
    settings = config(tmp_path)
    (tmp_path / "init").unlink()
    job = rehearsal.job_of(Part("alpine", mine()), settings, "n1")
    with (
        pytest.raises(PermanentError, match="folders cannot be made here") as caught,
        rehearsal.furnished(job, settings, "n1"),
    ):
        pass
    assert "on the node itself, as root" in caught.value.hint
    assert not settings.agent.spool_dir.exists()
