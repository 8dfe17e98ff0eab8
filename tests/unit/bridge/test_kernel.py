"""What /proc tells, read from real processes."""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from bridge import kernel


@pytest.fixture
def child():
    """A process with another umask, niceness and limits, and a descriptor of its /proc folder."""
    command = "umask 027; ulimit -n 77; ulimit -c 0; exec nice -n 5 sleep 60"
    with subprocess.Popen(["sh", "-c", command]) as process:
        descriptor = kernel.open_process(process.pid)
        while b"sleep" not in kernel.read(descriptor, "cmdline")[:6]:
            pass
        yield process.pid, descriptor
        os.close(descriptor)
        process.kill()


def test_identity_limits_and_niceness_are_read(child):
    _, descriptor = child
    identity = kernel.identity(descriptor)
    assert identity.uids == (os.getuid(),) * 4
    assert identity.gids == (os.getgid(),) * 4
    assert identity.umask == 0o027
    limits = kernel.limits(descriptor)
    assert limits[resource.RLIMIT_NOFILE] == (77, 77)
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert kernel.nice(descriptor) == os.getpriority(os.PRIO_PROCESS, 0) + 5


def test_a_proc_folder_never_comes_to_mean_another_process(child):
    pid, descriptor = child
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError):
        kernel.read(descriptor, "stat")


def test_start_tells_processes_apart(child):
    _, descriptor = child
    own = kernel.open_process(os.getpid())
    assert kernel.start_ticks(own) < kernel.start_ticks(descriptor)
    os.close(own)


def test_a_limit_that_may_not_be_raised_is_set_as_near_as_it_goes(child):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
        if os.getuid() == 0:
            os.setuid(65534)
        kernel.set_limit(resource.RLIMIT_NOFILE, 70, 80)
        os._exit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 60
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


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
    assert kernel.in_slurm_cgroup(paths) is bool(job)
    assert kernel.slurm_job(paths) == job


def test_own_cgroup_is_not_empty():
    own = kernel.open_process(os.getpid())
    paths = kernel.cgroup_paths(own)
    os.close(own)
    assert paths
    assert not kernel.cgroup_is_empty(next(iter(paths.values())))
    assert kernel.cgroup_is_empty("/no/such/cgroup")


@pytest.mark.parametrize("line_end", ["\x0b", "\x85", "\u2028", "\r"])
def test_a_users_cgroup_cannot_pass_for_another(monkeypatch, line_end):
    path = f"/user.slice/x{line_end}0::/system.slice"
    monkeypatch.setattr(kernel, "read", lambda process, name: f"1:cpu:/a\n0::{path}\n".encode())
    assert kernel.cgroup_paths(0) == {"cpu": "/a", "": path}


@pytest.mark.parametrize("line_end", [b"\x0b", b"\xc2\x85", b"\xe2\x80\xa8", b"\r", b"\xff"])
def test_a_users_mount_of_any_name_hides_no_cgroup_hierarchy(monkeypatch, tmp_path, line_end):
    lines = [
        b"24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
        b"90 1 0:90 / /home/alice/x%sy rw - fuse.u u rw" % line_end,
        b"",
    ]
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(b"\n".join(lines))
    monkeypatch.setattr(kernel, "_MOUNTS", mountinfo)
    assert kernel.cgroup_mounts.__wrapped__() == {"": Path("/sys/fs/cgroup")}


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

    monkeypatch.setattr(kernel, "cgroup_mounts", lambda: {"": tmp_path})
    monkeypatch.setattr(os, "scandir", removing)
    return tmp_path / "pod/kept/cgroup.procs"


def test_a_cgroup_that_is_removed_meanwhile_counts_as_empty(vanishing_cgroup):
    assert kernel.cgroup_is_empty("/pod")
    vanishing_cgroup.write_text(f"{os.getpid()}\n")
    assert not kernel.cgroup_is_empty("/pod")


def test_a_cgroups_children_are_named_and_one_that_is_not_there_has_none(vanishing_cgroup):
    assert kernel.cgroup_children("/pod") == {"kept", "removed"}
    assert kernel.cgroup_children("/no/such/cgroup") == set()


def test_every_process_of_a_cgroup_is_killed_though_some_have_ended(vanishing_cgroup):
    ended = subprocess.Popen(["true"])
    ended.wait()
    with subprocess.Popen(["sleep", "60"]) as alive:
        vanishing_cgroup.write_text(f"{ended.pid}\n{alive.pid}\n")
        kernel.kill_cgroup("/pod")
        assert alive.wait(10) == -9


def test_a_zombie_is_nobody():
    with subprocess.Popen(["/bin/true"], stdout=subprocess.PIPE) as child:
        child.stdout.read()  # ends when it does
        process = kernel.open_process(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            kernel.identity(process)
        os.close(process)
