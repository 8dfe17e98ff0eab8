"""What /proc tells, read from real processes."""

import os
import resource
import subprocess

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


def test_a_zombie_is_nobody():
    with subprocess.Popen(["/bin/true"], stdout=subprocess.PIPE) as child:
        child.stdout.read()  # ends when it does
        process = kernel.open_process(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            kernel.identity(process)
        os.close(process)
