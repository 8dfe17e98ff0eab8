"""The runtime `podman`: `podman kube play` of the same manifest that Kubernetes gets.

The only module that starts podman. Sandboxes are pods labelled with their node, so several
agents may share one podman storage. No daemon, no watch: a sandbox that ends is noticed by
the kernel ending what was in it.
"""

import json
import os
import re
import threading
import time
from pathlib import Path

from bridge import command, disk, kernel
from bridge.config import Podman
from bridge.durable import write_atomically
from bridge.errors import CommandError, NodeError, SbridgeError, TemporaryError
from bridge.job_spool import JobSpool
from bridge.runtimes import manifest
from bridge.runtimes.sandbox import Sandbox, SandboxSpec, UserError, Waiter

_PULL_TIMEOUT_S = 24 * 3600.0
_CONMON_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0
_REMOVE_TIMEOUT_S = 20.0
_CONMON_INTERVAL_S = 0.01
_OWN_CGROUPS = "/libpod_parent/"
# Pulling is a step of its own, which a cancelled job can end and which has no time limit.
_PULL_POLICY = "Never"
_UNKNOWN_IMAGE = "image not known"

# What podman says → who is to blame. Looked for in this order; the rest is the user's fault,
# because a strange image must never drain one node after the other.
_TEMPORARY = re.compile(
    r"connection refused|i/o timeout|TLS handshake timeout|connection reset|network is unreachable"
    r"|no route to host|server misbehaving|temporary failure|toomanyrequests|50[0234] |EOF$"
    r"|context deadline exceeded",
    re.IGNORECASE,
)
_NODE = re.compile(
    r"no space left on device|input/output error|read-only file system|cannot allocate memory"
    r"|too many open files|database (?:is )?(?:locked|corrupt)|OCI runtime .*not found"
    r"|cannot be started|statfs /|conmon|boltdb|storage-driver|disk quota exceeded",
    re.IGNORECASE,
)
_LOCAL_IMAGE = re.compile(r"localhost/")


class PodmanRuntime:
    """Sandboxes as Podman pods of one node's agent."""

    def __init__(self, settings: Podman, node: str, starts: threading.Semaphore) -> None:
        self._settings = settings
        self._starts = starts
        self._node = node
        environment = {"HOME": "/root"}
        if settings.containers_conf:
            environment["CONTAINERS_CONF"] = settings.containers_conf
        self._environment = environment

    def start(self, spec: SandboxSpec, spool: JobSpool, waiter: Waiter) -> Sandbox:
        """Play the pod; pulls the image first when the node lacks it."""
        content = json.dumps(manifest.pod(spec, _PULL_POLICY), indent=1).encode()
        write_atomically(spool.manifest, content, survives_power_loss=False)
        waiter.say(f"starting {spec.image}")
        try:
            self._play(spool, spec)
        except CommandError as error:
            if _UNKNOWN_IMAGE not in error.stderr_tail:
                raise _blame(error, spec.image, spec.name) from error
            self._pull(spec, waiter)
            waiter.say(f"starting {spec.image}")
            try:
                self._play(spool, spec)
            except CommandError as again:
                raise _blame(again, spec.image, spec.name) from again
        return self._running(spec)

    def _play(self, spool: JobSpool, spec: SandboxSpec) -> None:
        with self._starts:
            try:
                self._podman("kube", "play", str(spool.manifest))
            except CommandError as error:
                if "already exists" not in error.stderr_tail and "in use" not in error.stderr_tail:
                    raise
                self.remove(spec.name)  # left by a try that was cut short
                self._podman("kube", "play", str(spool.manifest))

    def _pull(self, spec: SandboxSpec, waiter: Waiter) -> None:
        waiter.say(f"pulling image {spec.image}")
        try:
            self._podman(
                "pull", "--quiet", spec.image, timeout_s=_PULL_TIMEOUT_S, cancelled=waiter.cancelled
            )
        except CommandError as error:
            raise _blame(error, spec.image, spec.name) from error

    def _running(self, spec: SandboxSpec) -> Sandbox:
        container = f"{spec.name}-{manifest.CONTAINER}"
        try:
            text = self._podman(
                "container", "inspect", container, "--format", "{{.State.Pid}} {{json .Config.Env}}"
            )
        except CommandError as error:
            raise TemporaryError(f"sandbox {spec.name} vanished: {error}") from error
        pid, _, variables = text.partition(" ")
        try:
            process = kernel.open_process(int(pid))
        except OSError as error:
            raise TemporaryError(f"sandbox {spec.name} ended at once") from error
        try:
            start = kernel.start_ticks(process)
            cgroup = _pod_cgroup(kernel.cgroup_paths(process))
        finally:
            os.close(process)
        return Sandbox(spec.name, int(pid), start, _path_of(json.loads(variables)), cgroup)

    def remove(self, name: str, sandbox: Sandbox | None = None) -> None:
        """Remove the pod, look again, and complain only when it is still there."""
        cgroup = sandbox.cgroup if sandbox else ""
        try:
            cgroup = cgroup or self._cgroup_of(name)
            # The pod is stopped first, and conmon let finish: `pod rm` of a running one races with
            # conmon for the pod's cgroup and then sleeps three seconds (seen with Podman 4.3.1).
            self._stop(name, cgroup)
            if cgroup:
                _wait_until_empty(cgroup)
            self._podman("pod", "rm", "--force", "--time", "0", name, timeout_s=_REMOVE_TIMEOUT_S)
        except CommandError as error:
            if not _is_unknown(error) and self._exists(name):
                raise NodeError(f"sandbox {name} cannot be removed: {error}") from error
        if cgroup:
            # Podman 4.3.1 forgets the hierarchies that it sets no limit in (systemd, unified).
            kernel.remove_cgroup(cgroup)

    def _stop(self, name: str, cgroup: str) -> None:
        """Stop the pod; one whose conmon was killed never stops for Podman, but it has a cgroup."""
        try:
            self._podman("pod", "stop", "--time", "0", name, timeout_s=_STOP_TIMEOUT_S)
        except CommandError as error:
            if error.exit_code is not None or not cgroup:
                raise
            kernel.kill_cgroup(cgroup)
            container = f"{name}-{manifest.CONTAINER}"
            self._podman("rm", "--force", "--time", "0", container, timeout_s=_REMOVE_TIMEOUT_S)

    def _cgroup_of(self, name: str) -> str:
        path = self._podman("pod", "inspect", "--format", "{{.CgroupPath}}", name).strip()
        return path if path.startswith(_OWN_CGROUPS) else ""

    def _exists(self, name: str) -> bool:
        try:
            self._podman("pod", "exists", name)
        except CommandError as error:
            return error.exit_code != 1
        return True

    def check(self) -> None:
        """Have podman look for its programs and open its storage, whose disk must have room."""
        try:
            storage = self._podman("info", "--format", "{{.Store.GraphRoot}}").strip()
        except CommandError as error:
            raise NodeError(f"podman does not work: {_reason(error)}") from error
        disk.check(Path(storage))

    def names(self) -> set[str]:
        """List the pods that carry this node's label."""
        label = f"label=sbridge/node={self._node}"
        try:
            text = self._podman("pod", "ps", "--filter", label, "--format", "{{.Name}}")
        except CommandError as error:
            raise TemporaryError(f"podman could not be asked: {error}") from error
        return set(text.split())

    def _podman(
        self, *arguments: str, timeout_s: float = 0, cancelled: threading.Event | None = None
    ) -> str:
        argv = [self._settings.command, *self._settings.global_options, *arguments]
        timeout_s = timeout_s or self._settings.timeout_s
        return command.run(
            argv, timeout_s=timeout_s, environment=self._environment, cancelled=cancelled
        ).stdout


def _blame(error: CommandError, image: str, name: str) -> SbridgeError:
    text = error.stderr_tail or str(error)
    said = text.replace(image, "").replace(name, "")  # an image may be called "conmon"
    reason = _reason(error)
    if _LOCAL_IMAGE.match(image) and "pinging container registry" in text:
        return UserError(f"image {image} is not on this node")
    if error.exit_code is None or _NODE.search(said):
        return NodeError(f"podman cannot start {name}: {reason}")
    if _TEMPORARY.search(said):
        return TemporaryError(f"image {image}: {reason}")
    return UserError(f"the sandbox with image {image} cannot be made: {reason}")


def _reason(error: CommandError) -> str:
    text = error.stderr_tail or str(error)
    return text.splitlines()[-1].removeprefix("Error: ")


def _is_unknown(error: CommandError) -> bool:
    return "no such pod" in error.stderr_tail or "no pod with name" in error.stderr_tail


def _pod_cgroup(paths: dict[str, str]) -> str:
    """Return the pod's own cgroup, where Podman manages it itself (cgroupfs), else ""."""
    parents = {path.rpartition("/")[0] for path in paths.values() if "/libpod-" in path}
    return next((path for path in parents if path.startswith(_OWN_CGROUPS)), "")


def _wait_until_empty(cgroup: str) -> None:
    deadline = time.monotonic() + _CONMON_TIMEOUT_S
    while not kernel.cgroup_is_empty(cgroup) and time.monotonic() < deadline:
        time.sleep(_CONMON_INTERVAL_S)


def _path_of(variables: list[str]) -> str:
    paths = [value[5:] for value in variables if value.startswith("PATH=")]
    return paths[-1] if paths else ""
