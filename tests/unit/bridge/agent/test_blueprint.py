"""From a run's request to its sandbox: names, the site's say, and the environment inside."""

import dataclasses
import json
import os
import pwd
from urllib.parse import quote

import pytest

from bridge.agent import blueprint
from bridge.agent.job import JobRun, Request, State
from bridge.config import Agent, Config
from bridge.config import Sandbox as SandboxSettings
from bridge.job_spool import JobSpool, NodeSpool
from bridge.runtimes.sandbox import Sandbox, UserError
from bridge.slurm.jobs import NodeShare

VARIABLES = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_UID": "1001",
    "SLURM_JOB_GID": "1002",
    "SLURM_JOB_USER": "alice",
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_JOB_COMMENT": "mine sbridge1?image=r.io%2Falpine%3A3",
}


def job(tmp_path, **variables):
    request = Request.of(VARIABLES | variables)
    return JobRun(request, JobSpool(tmp_path), State())


def config(tmp_path, **sandbox):
    agent = Agent(spool_dir=tmp_path, runtime="podman", allowed_runtimes=("podman",))
    return Config(agent=agent, sandbox=SandboxSettings(**sandbox))


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "slurm-job-12"),
        ({"SLURM_JOB_RESTART_COUNT": "2"}, "slurm-job-12-r2"),
        ({"SLURM_JOB_NODELIST": "n[1-2]"}, "slurm-job-12-n1"),
    ],
)
def test_no_two_runs_or_nodes_share_a_sandbox_name(tmp_path, variables, name):
    assert blueprint.sandbox_name(job(tmp_path, **variables).request, "n1") == name


def test_a_runtime_that_the_site_does_not_offer_is_the_users_error(tmp_path):
    asked = job(tmp_path, SLURM_JOB_COMMENT="sbridge1?image=x&runtime=host")
    with pytest.raises(UserError, match="choose one of: podman"):
        blueprint.runtime_of(asked, config(tmp_path))


def test_no_image_means_no_sandbox(tmp_path):
    plain = job(tmp_path, SLURM_JOB_COMMENT="sbridge1?tag=ab")
    assert blueprint.runtime_of(plain, config(tmp_path)) == "host"
    assert plain.request.is_nas_job


def test_an_image_that_the_site_does_not_allow_is_the_users_error(tmp_path):
    settings = config(tmp_path, allowed_images=("nas-hub.local:5407/*",))
    with pytest.raises(UserError, match=r"r\.io/alpine:3 is not allowed"):
        blueprint.specification(job(tmp_path), settings, "n1", NodeShare(1, 100), None)


def test_mounts_are_the_sites_and_the_jobs_own(tmp_path):
    there = tmp_path / "data"
    there.mkdir()
    settings = config(tmp_path, mounts=(f"{there}:ro", "/no/such/folder"))
    spec = blueprint.specification(job(tmp_path), settings, "n1", NodeShare(2, 100), tmp_path / "s")
    targets = {mount.target: mount for mount in (*spec.mounts, *spec.folders)}
    assert targets[str(there)].read_only
    assert "/no/such/folder" not in targets
    assert not targets[str(tmp_path / "out")].read_only
    assert targets["/etc/passwd"].read_only
    assert targets[str(tmp_path / "s")].source == str(tmp_path / "script")
    assert (spec.cpus, spec.memory_mib) == (2, 100)


def test_the_environment_changes_in_the_documented_places_only(tmp_path):
    given = [b"PATH=/home/alice/bin:/usr/bin", b"ODD=\xff=1", b"SBRIDGE_OUTPUTS=/etc", b"EMPTY="]
    sandbox = Sandbox("x", 1, 1, path="/opt/conda/bin:/usr/bin")
    given += [b"SBRIDGE_DOOR=/etc", b"SBRIDGE_KEPT_LD_PRELOAD=x"]
    inside = blueprint.environment(given, sandbox, job(tmp_path), "/sbridge/steps/1")
    assert inside == [
        b"PATH=/sbridge/bin:/opt/conda/bin:/usr/bin:/home/alice/bin",
        b"ODD=\xff=1",
        b"EMPTY=",
        b"LD_PRELOAD=x",
        b"SBRIDGE_OUTPUTS=%s/out/outputs" % str(tmp_path).encode(),
        b"SBRIDGE_DOOR=/sbridge/steps/1",
    ]


def test_what_srun_was_told_of_the_loader_counts_more_than_what_was_hidden_from_it(tmp_path):
    hidden = [b"SBRIDGE_KEPT_LD_LIBRARY_PATH=/script", b"SBRIDGE_KEPT_LD_PRELOAD=x"]
    for given in ([b"LD_LIBRARY_PATH=/srun", *hidden], [*hidden, b"LD_LIBRARY_PATH=/srun"]):
        found = blueprint.environment(given, None, job(tmp_path))
        assert sorted(found)[:2] == [b"LD_LIBRARY_PATH=/srun", b"LD_PRELOAD=x"]


def test_tasks_of_srun_inside_have_the_jobs_name_not_their_steps(tmp_path):
    given = [b"SBRIDGE_KEPT_SLURM_JOB_NAME=the job", b"SLURM_JOB_NAME=true", b"SLURM_JOB_NAMES=x"]
    found = blueprint.environment(given, None, job(tmp_path))
    assert found[:2] == [b"SLURM_JOB_NAME=the job", b"SLURM_JOB_NAMES=x"]


def test_variables_of_the_image_are_there_where_the_job_has_none(tmp_path):
    image = {"LANG": "C", "CONDA_PREFIX": "/opt/conda", "ODD": os.fsdecode(b"\xff")}
    sandbox = Sandbox("x", 1, 1, variables=image)
    inside = blueprint.environment([b"LANG=ko_KR.UTF-8"], sandbox, job(tmp_path))
    assert inside[0] == b"LANG=ko_KR.UTF-8"
    assert inside[2:] == [b"CONDA_PREFIX=/opt/conda", b"ODD=\xff"]


def test_devices_are_those_of_the_gpus_that_slurm_gave_as_far_as_there_are_any(tmp_path):
    # As with GPUs: one file each, some that all share, and some that this node lacks.
    patterns = ("/dev/tty{index}", "/dev/tty{index+10}", "/dev/null", "/dev/nosuch{index}", "/etc")
    settings = config(tmp_path, gpu_devices=patterns)

    def devices(gpus):
        asked = job(tmp_path, SLURM_JOB_GPUS=gpus)
        return blueprint.specification(asked, settings, "n1", NodeShare(1, 1), None).devices

    assert devices("1,3-4") == (
        *("/dev/tty1", "/dev/tty3", "/dev/tty4"),
        *("/dev/tty11", "/dev/tty13", "/dev/tty14", "/dev/null"),
    )
    assert devices("") == ()


def test_a_part_of_a_gpu_has_files_of_its_own_and_shares_others(tmp_path):
    patterns = ("0:/dev/tty1", "0:/dev/tty2", "1:/dev/tty1", "1:/dev/tty3", "10:/dev/tty4")
    settings = config(tmp_path, gpu_devices=(*patterns, "/dev/null", "0:/dev/nosuch", "x:/dev/tty"))

    def devices(gpus):
        asked = job(tmp_path, SLURM_JOB_GPUS=gpus)
        return blueprint.specification(asked, settings, "n1", NodeShare(1, 1), None).devices

    assert devices("1") == ("/dev/tty1", "/dev/tty3", "/dev/null")
    assert devices("0-1") == ("/dev/tty1", "/dev/tty2", "/dev/tty3", "/dev/null")
    assert devices("10") == ("/dev/tty4", "/dev/null")
    assert devices("") == ()


@pytest.mark.parametrize(
    ("image", "given", "inside"),
    [
        ("", [b"PATH=/bin"], b"PATH=/sbridge/bin:/bin"),
        ("", [], None),
        ("/bin", [], b"PATH=/sbridge/bin:/bin"),
        ("/bin", [b"PATH=/mine:/sbridge/bin:/bin"], b"PATH=/mine:/sbridge/bin:/bin"),
    ],
    ids=["image-without", "none-at-all", "job-without", "task-of-a-script-inside"],
)
def test_a_path_begins_with_the_shims_unless_a_script_inside_arranged_it(
    tmp_path, image, given, inside
):
    sandbox = dataclasses.replace(Sandbox("x", 1, 1), path=image)
    found = blueprint.environment(given, sandbox, job(tmp_path))
    assert [pair for pair in found if pair.startswith(b"PATH=")] == ([inside] if inside else [])


@pytest.mark.parametrize("sandbox", [None, Sandbox("x", 1, 1)])
def test_the_named_script_is_exported_whatever_the_user_had_exported(tmp_path, sandbox):
    asked = job(tmp_path, SLURM_JOB_COMMENT="sbridge1?script=%2F%EC%8B%A4%ED%97%98%2Fx.py")
    found = blueprint.environment([b"K8S_SCRIPT=/mine", b"K8S_SCRIPTS=x"], sandbox, asked)
    assert sorted(found)[:2] == ["K8S_SCRIPT=/실험/x.py".encode(), b"K8S_SCRIPTS=x"]


def test_without_a_named_script_the_users_own_variable_stays(tmp_path):
    found = blueprint.environment([b"K8S_SCRIPT=/mine"], None, job(tmp_path))
    assert b"K8S_SCRIPT=/mine" in found


def test_a_hook_without_job_variables_is_refused():
    with pytest.raises(Exception, match="no usable job variables"):
        Request.of({"SLURM_JOB_ID": "x"})


def test_a_state_that_did_not_survive_begins_anew(tmp_path):
    run = job(tmp_path)
    run.save_request()
    made = Sandbox("x", 1, 2, variables={"LANG": "C", "ODD": os.fsdecode(b"\xff")})
    run.advance(name="ready", sandbox=made)
    assert JobRun.load(run.run, run.spool).state.sandbox == made
    older = json.loads(run.spool.state.read_bytes())
    del older["sandbox"]["variables"]  # as before there was such a thing
    run.spool.state.write_text(json.dumps(older))
    assert JobRun.load(run.run, run.spool).state.sandbox == Sandbox("x", 1, 2)
    run.spool.state.write_bytes(b"")
    assert JobRun.load(run.run, run.spool).state == State()


@pytest.mark.parametrize(
    "image",
    [
        "oci-archive:/srv/secret",
        "dir:x",
        "docker://r.io/x",
        "-x",
        "r.io/UPPER",
        "r.io/x y",
        "r.io/x:tag:tag",
        "../x",
        "",
    ],
)
def test_what_is_no_image_reference_never_reaches_the_runtime(tmp_path, image):
    asked = job(tmp_path, SLURM_JOB_COMMENT="sbridge1?image=" + quote(image, safe=""))
    with pytest.raises(UserError, match="no image reference"):
        blueprint.specification(asked, config(tmp_path), "n1", NodeShare(1, 1), None)


@pytest.mark.parametrize(
    "image",
    ["alpine", "alpine:3", "nas-hub.local:5407/a/b_c:latest", "localhost/x@sha256:" + "a" * 64],
)
def test_image_references_pass(tmp_path, image):
    asked = job(tmp_path, SLURM_JOB_COMMENT="sbridge1?image=" + quote(image, safe=""))
    spec = blueprint.specification(asked, config(tmp_path), "n1", NodeShare(1, 1), None)
    assert spec.image == image


def test_a_user_whose_name_is_not_utf8_gets_his_passwd_file(tmp_path, monkeypatch):
    entry = pwd.struct_passwd(
        ("andré", "x", 1, 1, b"Andr\xe9".decode("utf-8", "surrogateescape"), "/", "/bin/sh")
    )
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: entry)
    assert os.fsencode(blueprint._passwd(1)).endswith(b":Andr\xe9:/:/bin/sh\n")


def test_the_users_folder_is_his_only_when_all_that_root_makes_is_in_it(tmp_path, monkeypatch):
    given = []

    def chown(path, uid, gid, follow_symlinks=True):
        assert not follow_symlinks
        given.append((path, uid, gid, (tmp_path / "out/outputs").is_dir()))

    monkeypatch.setattr(os, "chown", chown)
    spool = NodeSpool(tmp_path)
    asked = job(tmp_path, SLURM_JOB_NODELIST="n1")
    blueprint.furnish_job(asked, spool, "another node")
    out = tmp_path / "out"
    assert given == [(out / "outputs", 1001, 1002, True), (out, 1001, 1002, True)]


def test_nothing_is_made_in_a_folder_that_is_the_users_already(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    asked = job(tmp_path)
    asked.spool.out.mkdir()
    blueprint.furnish_job(asked, NodeSpool(tmp_path), "another node")
    assert list(asked.spool.out.iterdir()) == []
