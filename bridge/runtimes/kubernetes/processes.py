"""Find and end a pod's processes on this node by what the kernel knows: their cgroups.

Kubelets name cgroups after the pod's uid and the container's id, with both cgroup drivers
and with cgroup v1 and v2 alike. The kubelet itself learns of such an end later, and agrees.
"""

import os
import re
import signal
import time
from collections.abc import Iterator

from bridge import kernel

_GONE_TIMEOUT_S = 5.0
_GONE_INTERVAL_S = 0.005
_POD_UID = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")


def init_of(container_id: str) -> int:
    """Return a descriptor of /proc/<pid> of the container's first process.

    `container_id` is a pod status' `containerd://…`. Raises OSError when there is none.
    """
    name = container_id.rpartition("/")[2]
    for process in _with_cgroup(name):
        if _is_first(process):
            return process
        os.close(process)
    raise ProcessLookupError(f"no process of container {name[:12]} is on this node")


def cgroup_of(process: int, pod_uid: str) -> str:
    """Return the path of the pod's cgroup, in which this process of it is."""
    names = _cgroup_names(pod_uid)
    for path in kernel.cgroup_paths(process).values():
        parts = path.split("/")
        for index, part in enumerate(parts):
            if any(name in part for name in names):
                return "/".join(parts[: index + 1])
    return ""


def pod_uid(cgroup: str) -> str:
    """Return the uid of the pod whose cgroup has this path, "" when it tells none."""
    match = _POD_UID.search(cgroup)
    return match[1].replace("_", "-") if match else ""


def kill_pod(pod_uid: str) -> bool:
    """Kill all processes of the pod on this node; whether none is left within seconds."""
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while _kill_once(pod_uid):
        if time.monotonic() > deadline:
            return False
        time.sleep(_GONE_INTERVAL_S)
    return True


def _kill_once(pod_uid: str) -> bool:
    """Kill what there is of the pod; return whether there was anything alive."""
    found = False
    for name in _cgroup_names(pod_uid):
        for process in _with_cgroup(name):
            try:
                pid = int(kernel.read(process, "stat").split()[0])
                # A step has joined the sandbox's namespaces but not its cgroup: what is in here
                # is the pod's own, and a pid cannot be reused while its /proc folder is open.
                os.kill(pid, signal.SIGKILL)
                found = True
            except OSError:
                pass
            finally:
                os.close(process)
    return found


def _with_cgroup(name: str) -> Iterator[int]:
    """Yield a descriptor for each living process with `name` in its cgroup's path."""
    wanted = name.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            process = kernel.open_process(int(entry))
        except OSError:
            continue
        try:
            matches = wanted in kernel.read(process, "cgroup") and not _is_dead(process)
        except OSError:
            matches = False
        if matches:
            yield process
        else:
            os.close(process)


def _is_dead(process: int) -> bool:
    return kernel.read(process, "stat").rpartition(b")")[2].split()[0] in (b"Z", b"X")


def _is_first(process: int) -> bool:
    try:
        status = kernel.read(process, "status")
    except OSError:
        return False
    line = next((line for line in status.splitlines() if line.startswith(b"NSpid:")), b"")
    return line.split()[-1:] == [b"1"]


def _cgroup_names(pod_uid: str) -> tuple[str, str]:
    """Return what the pod's cgroup is called by the cgroupfs and the systemd driver."""
    return f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}"
