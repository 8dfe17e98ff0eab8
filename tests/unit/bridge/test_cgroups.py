"""What a process's cgroups tell, and what is in a cgroup."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import cgroups, kernel


@pytest.mark.parametrize(
    ("paths", "job"),
    [
        ({"freezer": "/slurm_n1/uid_1001/job_2/step_batch", "cpu": "/"}, 2),
        ({"": "/system.slice/n1_slurmstepd.scope/job_34/step_batch/user/task_0"}, 34),
        ({"": "/user.slice/user-1001.slice/session-1.scope"}, 0),
        ({"memory": "/slurm_n1/system"}, 0),
    ],
)
def test_slurms_own_cgroups_are_known(paths, job):
    assert cgroups.is_slurms(paths) is bool(job)
    assert cgroups.job_of(paths) == job


def test_own_cgroup_is_not_empty():
    own = kernel.open_process(os.getpid())
    paths = cgroups.of_process(own)
    os.close(own)
    assert paths
    assert not cgroups.is_empty(next(iter(paths.values())))
    assert cgroups.is_empty("/no/such/cgroup")


@pytest.mark.parametrize("line_end", ["\x0b", "\x85", "\u2028", "\r"])
def test_a_users_cgroup_cannot_pass_for_another(monkeypatch, line_end):
    path = f"/user.slice/x{line_end}0::/system.slice"
    monkeypatch.setattr(kernel, "read", lambda process, name: f"1:cpu:/a\n0::{path}\n".encode())
    assert cgroups.of_process(0) == {"cpu": "/a", "": path}


@pytest.mark.parametrize("line_end", [b"\x0b", b"\xc2\x85", b"\xe2\x80\xa8", b"\r", b"\xff"])
def test_a_users_mount_of_any_name_hides_no_cgroup_hierarchy(monkeypatch, tmp_path, line_end):
    lines = [
        b"24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        b"90 1 0:90 / /home/alice/x%sy rw - fuse.u u rw" % line_end,
        b"",
    ]
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(b"\n".join(lines))
    monkeypatch.setattr(cgroups, "_MOUNTS", mountinfo)
    assert cgroups.hierarchies.__wrapped__() == {"": Path("/sys/fs/cgroup")}


@pytest.fixture
def vanishing_cgroup(tmp_path, monkeypatch):
    """A pod's cgroup with two containers', of which one is removed while somebody looks into it.

    Gives the file that lists the other's processes.
    """
    for name in ("kept", "removed"):
        (tmp_path / "pod" / name).mkdir(parents=True)
        (tmp_path / "pod" / name / "cgroup.procs").touch()
    scandir = os.scandir

    def removing(path):
        if str(path).endswith("/removed"):
            monkeypatch.setattr(os, "scandir", scandir)
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(cgroups, "hierarchies", lambda: {"": tmp_path})
    monkeypatch.setattr(os, "scandir", removing)
    return tmp_path / "pod/kept/cgroup.procs"


def test_a_cgroup_that_is_removed_meanwhile_counts_as_empty(vanishing_cgroup):
    assert cgroups.is_empty("/pod")
    vanishing_cgroup.write_text(f"{os.getpid()}\n")
    assert not cgroups.is_empty("/pod")


def test_a_cgroups_children_are_named_and_one_that_is_not_there_has_none(vanishing_cgroup):
    assert cgroups.children("/pod") == {"kept", "removed"}
    assert cgroups.children("/no/such/cgroup") == set()


def test_every_process_of_a_cgroup_is_killed_though_some_have_ended(vanishing_cgroup):
    ended = subprocess.Popen(["true"])
    ended.wait()
    with subprocess.Popen(["sleep", "60"]) as alive:
        vanishing_cgroup.write_text(f"{ended.pid}\n{alive.pid}\n")
        cgroups.kill("/pod")
        assert alive.wait(10) == -9
