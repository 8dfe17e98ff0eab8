"""Find and end a pod's processes on this node by what the kernel knows: their cgroups.

Kubelets name cgroups after the pod's uid and the container's id, with both cgroup drivers
and with cgroup v1 and v2 alike, below whatever root they are given. A name counts only where root
alone can have given it. The kubelet itself learns of such an end later, and agrees.
"""

import errno
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from bridge import kernel
from bridge.runtimes import roots_cgroup

_GONE_TIMEOUT_S = 5.0
_POD_UID = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")


def init_of(pod_uid: str, container_id: str) -> int:
    """Return a descriptor of /proc/<pid> of the first process of the pod's container.

    `container_id` is a pod status' `containerd://…`. Raises OSError when there is none.
    """
    name = container_id.rpartition("/")[2]
    for process in _in_pod(pod_uid):
        try:
            if _is_in_container(process, pod_uid, name) and roots_cgroup.is_first(process):
                return process
        except OSError as error:
            _check_ended(error)
        os.close(process)
    raise ProcessLookupError(f"no process of container {name[:12]} is on this node")


def cgroup_of(process: int, pod_uid: str) -> str:
    """Return the path of the pod's cgroup, in which this process of it is."""
    pod = _pod_name(pod_uid)
    for names in roots_cgroup.made_by_root(process):
        for index, name in enumerate(names):
            if pod.fullmatch(name):
                return "/" + "/".join(names[: index + 1])
    return ""


def _is_in_container(process: int, pod_uid: str, name: str) -> bool:
    """Whether the process is in this container's cgroup below the pod's."""
    # <id> or crio-<id>, and cri-containerd-<id>.scope with the systemd driver.
    container = re.compile(rf"(?:[a-z-]+-)?{re.escape(name)}(?:\.scope)?")
    pod = _pod_name(pod_uid)
    for names in roots_cgroup.made_by_root(process):
        start = next((index for index, one in enumerate(names) if pod.fullmatch(one)), len(names))
        if any(container.fullmatch(one) for one in names[start + 1 :]):
            return True
    return False


def pod_uid(cgroup: str) -> str:
    """Return the uid of the pod whose cgroup has this path, "" when it tells none."""
    match = _POD_UID.search(cgroup)
    return match[1].replace("_", "-") if match else ""


def root_folder(pod_uid: str) -> Path | None:
    """Return where this node keeps what some process of the pod writes to its root."""
    for process in _in_pod(pod_uid):
        try:
            folder = upper_folder(os.fsdecode(kernel.read(process, "mountinfo")))
        except OSError:
            continue  # it has ended
        finally:
            os.close(process)
        if folder is not None:
            return folder
    return None


def upper_folder(mountinfo: str) -> Path | None:
    """Return the upper folder of the overlay at /, None where there is no overlay."""
    for line in mountinfo.split("\n"):
        before, _, after = line.partition(" - ")
        options = after.split(" ")[-1].split(",")
        upper = [option for option in options if option.startswith("upperdir=")]
        if before.split(" ")[4:5] == ["/"] and after.startswith("overlay ") and upper:
            return Path(upper[0].removeprefix("upperdir="))
    return None


def kill_pod(pod_uid: str) -> bool:
    """Kill all processes of the pod on this node; whether none is left within seconds.

    Raises OSError when they cannot be looked for.
    """
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while left := _kill_all(pod_uid):
        try:
            _await_end(left, deadline)
        finally:
            for process in left:
                os.close(process)
        if time.monotonic() > deadline:
            return False
    return True


def _kill_all(pod_uid: str) -> list[int]:
    """Kill what is alive of the pod; return a pidfd of each process that was."""
    killed = []
    for process in _in_pod(pod_uid):
        try:
            # A step has joined the sandbox's namespaces but not its cgroup: what is in here is
            # the pod's own. The open /proc folder names the process, whoever has its pid later.
            signal.pidfd_send_signal(process, signal.SIGKILL)
            killed.append(_pidfd(process))
        except OSError as error:
            _check_ended(error)
        finally:
            os.close(process)
    return killed


def _pidfd(process: int) -> int:
    """Return a descriptor that can be polled for the end of a process; raises OSError."""
    pidfd = os.pidfd_open(int(kernel.read(process, "stat").split()[0]))
    try:
        kernel.read(process, "stat")  # so the pid was still its own
    except OSError:
        os.close(pidfd)
        raise
    return pidfd


def _await_end(pidfds: list[int], deadline: float) -> None:
    """Return once all of these processes have ended, or at the deadline."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    running = len(pidfds)
    while running and (left_s := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left_s * 1000):
            poll.unregister(pidfd)
            running -= 1


def _in_pod(pod_uid: str) -> Iterator[int]:
    """Yield a descriptor for each living process of the pod."""
    uids = (pod_uid.encode(), pod_uid.replace("-", "_").encode())
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            process = kernel.open_process(int(entry))
        except OSError as error:
            _check_ended(error)
            continue
        try:
            cgroup = kernel.read(process, "cgroup")  # whoever named it: most are ruled out
            matches = any(uid in cgroup for uid in uids) and _is_alive_in(process, pod_uid)
        except OSError as error:
            _check_ended(error)
            matches = False
        if matches:
            yield process
        else:
            os.close(process)


def _is_alive_in(process: int, pod_uid: str) -> bool:
    return bool(cgroup_of(process, pod_uid)) and not kernel.is_dead(process)


def _check_ended(error: OSError) -> None:
    """Pass over the error of a process that ended by itself; raise one of this process's own."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _pod_name(pod_uid: str) -> re.Pattern[str]:
    """Return what the pod's cgroup is called by the cgroupfs and the systemd driver."""
    plain, sliced = re.escape(pod_uid), re.escape(pod_uid.replace("-", "_"))
    return re.compile(rf"pod{plain}|(?:.+-)?pod{sliced}\.slice")
