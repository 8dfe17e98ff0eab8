"""Who a pod's processes are, told by real cgroups: root's, and one that a user was given."""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from bridge import cgroups, kernel
from bridge.runtimes.kubernetes import processes

NOBODY = 65534
CONTAINER = "0123456789abcdef" * 4
UNSHARE = "exec unshare --pid --fork --kill-child"
INIT = "bash -c 'exec -a /sbridge/init sleep 60'"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups")


@pytest.fixture
def uid():
    return str(uuid.uuid4())


@pytest.fixture
def started(tmp_path):
    """Start a first process of a PID namespace in a cgroup with this path, root's or a user's."""
    hierarchy = next(iter(cgroups.hierarchies().values()))
    made: list[Path] = []

    def started(path, owner=0, program=INIT):
        folder = hierarchy
        for name in path.split("/"):
            folder /= name
            if not folder.exists():
                folder.mkdir()
                os.chown(folder, owner, owner)
                made.append(folder)
        script = f"echo $$ >{folder}/cgroup.procs; {UNSHARE} setpriv --reuid {owner} {program}"
        running.append(stack.enter_context(subprocess.Popen(["bash", "-c", script])))
        child = Path(f"/proc/{running[-1].pid}/task/{running[-1].pid}/children")
        wait_until(
            lambda: children(child) and command(children(child)[0]).startswith(b"/sbridge/init")
        )
        inits.append(kernel.open_process(int(children(child)[0])))
        return int(children(child)[0])

    running: list[subprocess.Popen[bytes]] = []
    inits: list[int] = []
    with contextlib.ExitStack() as stack:
        try:
            yield started
        finally:
            for init in inits:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(init, signal.SIGKILL)
                os.close(init)
            for one in running:
                one.kill()
                one.wait()
            for folder in reversed(made):
                wait_until(lambda folder=folder: is_removed(folder))


def children(file):
    with contextlib.suppress(OSError):
        return file.read_text().split()
    return []


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def is_removed(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pid_of_init(uid):
    process = processes.init_of(uid, f"containerd://{CONTAINER}")
    try:
        return int(kernel.read(process, "stat").split()[0])
    finally:
        os.close(process)


def paths(uid):
    below = uid.replace("-", "_")
    slices = f"sbt{below}.slice/sbt-kubepods.slice/sbt-kubepods-burstable.slice"
    return {
        "cgroupfs": f"sbt-{uid}/kubepods/burstable/pod{uid}/{CONTAINER}",
        "guaranteed": f"sbt-{uid}/kubepods/pod{uid}/{CONTAINER}",
        "systemd": f"{slices}/sbt-kubepods-burstable-pod{below}.slice"
        f"/cri-containerd-{CONTAINER}.scope",
        "CRI-O": f"sbt-{uid}/kubepods/pod{uid}/crio-{CONTAINER}/container",
    }


@pytest.mark.parametrize("driver", paths(""))
def test_a_pods_init_is_found_by_the_names_that_kubelets_give(started, uid, driver):
    pid = started(paths(uid)[driver])
    assert pid_of_init(uid) == pid
    held = kernel.open_process(pid)
    assert processes.pod_uid(processes.cgroup_of(held, uid)) == uid
    os.close(held)


@pytest.mark.parametrize("driver", paths(""))
def test_a_users_process_in_a_cgroup_of_his_own_is_no_pods_init(started, uid, driver):
    started(paths(uid)[driver], owner=NOBODY)
    with pytest.raises(ProcessLookupError):
        pid_of_init(uid)


def test_a_cgroup_that_has_the_names_as_parts_of_others_is_no_pods(started, uid):
    started(f"sbt-{uid}/xpod{uid}/{CONTAINER}")
    started(f"sbt-{uid}/pod{uid}x/{CONTAINER}")
    with pytest.raises(ProcessLookupError):
        pid_of_init(uid)


def test_another_container_of_the_pod_is_not_taken_for_it(started, uid):
    started(f"sbt-{uid}/kubepods/pod{uid}/{CONTAINER[::-1]}")
    with pytest.raises(ProcessLookupError):
        pid_of_init(uid)


def test_the_first_process_of_a_namespace_further_down_is_no_pods_init(started, uid):
    pid = started(
        f"sbt-{uid}/kubepods/pod{uid}/{CONTAINER}",
        program="bash -c 'exec -a /sbridge/init unshare --pid --fork --kill-child sleep 60'",
    )
    inner = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: children(inner))
    assert pid_of_init(uid) == pid


def test_a_pods_removal_neither_kills_nor_awaits_what_a_user_calls_like_it(started, uid):
    pods = started(f"sbt-{uid}/kubepods/pod{uid}/{CONTAINER}")
    users = started(f"sbt-{uid}-user/kubepods/pod{uid}/{CONTAINER}", owner=NOBODY)
    assert processes.kill_pod(uid)
    assert b"/sbridge/init" in command(users)
    assert command(pods) == b""
