"""The runtime `podman`: `podman kube play` of the same manifest that Kubernetes gets.

The only module that starts podman. Sandboxes are pods labelled with their node, so several
agents may share one podman storage. No daemon, no watch: a sandbox that ends is noticed by
the kernel ending what was in it.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bridge import cgroups, command, disk, kernel
from bridge.config import Podman
from bridge.durable import write_atomically
from bridge.errors import CommandError, NodeError, SbridgeError, TemporaryError
from bridge.job_spool import JobSpool
from bridge.runtimes import complaint, first_process, image_variables, manifest, roots_cgroup
from bridge.runtimes.sandbox import (
    NotInstalledError,
    Sandbox,
    SandboxSpec,
    UserError,
    Waiter,
    ended_at_once,
)

_PULL_TIMEOUT_S = 24 * 3600.0
_CONMON_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0
_REMOVE_TIMEOUT_S = 20.0
_CONMON_INTERVAL_S = 0.01
_OWN_CGROUPS = "/libpod_parent/"
# Pulling is a step of its own, which a cancelled job can end and which has no time limit.
_SITE = manifest.Site(pull_policy="Never")
_UNKNOWN_IMAGE = "image not known"
# What `podman info` tells of itself, null where it could not be run.
_PROGRAMS = ("ociRuntime", "conmon")
_LOCAL_IMAGE = "localhost/"
_UNREACHED_REGISTRY = "pinging container registry"


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
        content = json.dumps(manifest.pod(spec, _SITE), indent=1).encode()
        write_atomically(spool.manifest, content, survives_power_loss=False)
        try:
            self._make(spec, spool, waiter)
        except CommandError as error:
            raise self._fault(error, spec, waiter) from error
        return self._running(spec)

    def _make(self, spec: SandboxSpec, spool: JobSpool, waiter: Waiter) -> None:
        waiter.say(f"starting {spec.image}")
        try:
            self._play(spool, spec)
            return
        except CommandError as error:
            if _UNKNOWN_IMAGE not in error.stderr_tail:
                raise
        waiter.say(f"pulling image {spec.image}")
        self._podman(
            "pull", "--quiet", spec.image, timeout_s=_PULL_TIMEOUT_S, cancelled=waiter.cancelled
        )
        waiter.say(f"starting {spec.image}")
        self._play(spool, spec)

    def _play(self, spool: JobSpool, spec: SandboxSpec) -> None:
        with self._starts:
            try:
                self._podman("kube", "play", str(spool.manifest))
            except CommandError as error:
                if "already exists" not in error.stderr_tail and "in use" not in error.stderr_tail:
                    raise
                self._remove_old(spec.name)
                self._podman("kube", "play", str(spool.manifest))

    def _remove_old(self, name: str) -> None:
        """Remove what a try left that was cut short."""
        try:
            self.remove(name)
        except NodeError as error:
            self.check()
            raise TemporaryError(error.message) from error

    def _fault(self, error: CommandError, spec: SandboxSpec, waiter: Waiter) -> SbridgeError:
        """Tell who is to blame: the node only when it is found at fault without the image.

        Podman's words may be the image's or the registry's: who could drain a node with them
        could drain one after the other.
        """
        reason = complaint.reason(error)
        if waiter.cancelled.is_set():
            return TemporaryError(f"image {spec.image}: {reason}")
        try:
            self.check()
        except NodeError as fault:
            return fault
        if spec.image.startswith(_LOCAL_IMAGE) and _UNREACHED_REGISTRY in error.stderr_tail:
            return UserError(f"image {spec.image} is not on this node")
        if complaint.may_pass(error):
            return TemporaryError(f"image {spec.image}: {reason}")
        return UserError(f"the sandbox with image {spec.image} cannot be made: {reason}")

    def _running(self, spec: SandboxSpec) -> Sandbox:
        container = f"{spec.name}-{manifest.CONTAINER}"
        try:
            text = self._podman(
                *("container", "inspect", container, "--format"),
                "{{.Id}} {{.State.Pid}} {{json .Config.Env}}",
            )
            container_id, pid, pairs = text.split(" ", 2)
            # Not from its /proc folder: where runc has just become the init, those were runc's.
            variables = image_variables.among(json.loads(pairs))
            try:
                return _look_at(spec.name, container_id, int(pid), variables)
            except OSError as error:
                exit_code = int(self._podman("wait", container))
                raise ended_at_once(spec.image, exit_code) from error
        except CommandError as error:
            reason = complaint.reason(error)
            raise TemporaryError(f"sandbox {spec.name} vanished: {reason}") from error

    def remove(self, name: str, sandbox: Sandbox | None = None) -> None:
        """Remove the pod, look again, and complain only when it is still there."""
        cgroup = sandbox.cgroup if sandbox else ""
        try:
            cgroup = cgroup or self._cgroup_of(name)
            # What is in the pod is ended first, and conmon let finish: `pod rm` of a running one
            # races with conmon for the pod's cgroup and then sleeps three seconds (seen with
            # Podman 4.3.1). `pod stop` does the same by four processes of Podman's and runc's.
            if cgroup:
                _kill_containers(cgroup)
            if not cgroup or not _wait_until(lambda: cgroups.is_empty(cgroup)):
                self._stop(name, cgroup)
            self._podman("pod", "rm", "--force", "--time", "0", name, timeout_s=_REMOVE_TIMEOUT_S)
        except CommandError as error:
            if not _is_unknown(error) and self._exists(name):
                reason = complaint.reason(error)
                raise NodeError(f"sandbox {name} cannot be removed: {reason}") from error
        if cgroup:
            _remove_cgroup(cgroup)

    def _stop(self, name: str, cgroup: str) -> None:
        """Stop the pod; one whose conmon was killed never stops for Podman, but it has a cgroup."""
        try:
            self._podman("pod", "stop", "--time", "0", name, timeout_s=_STOP_TIMEOUT_S)
        except CommandError as error:
            if error.exit_code is not None or not cgroup:
                raise
            cgroups.kill(cgroup)
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
        """Have podman run its programs and open its storage, whose disk must have room."""
        try:
            said = self._run("info", "--format", "{{json .}}")
        except CommandError as error:
            raise NodeError(f"podman does not work: {complaint.reason(error)}") from error
        try:
            facts = json.loads(said.stdout)
            storage = facts["store"]["graphRoot"]
            missing = [program for program in _PROGRAMS if not facts["host"].get(program)]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NodeError("podman does not work: `podman info` tells no facts") from error
        if missing:  # podman says so on stderr and ends with 0
            names, why = ", ".join(missing), complaint.telling(said.stderr)
            raise NodeError(f"podman does not work: it finds no {names}: {why}")
        disk.check(Path(storage))

    def names(self) -> set[str]:
        """List the pods that carry this node's label."""
        label = f"label=sbridge/node={manifest.label(self._node)}"
        try:
            text = self._podman("pod", "ps", "--filter", label, "--format", "{{.Name}}")
        except CommandError as error:
            is_missing = isinstance(error.__cause__, FileNotFoundError)
            kind = NotInstalledError if is_missing else TemporaryError
            raise kind(f"podman could not be asked: {complaint.reason(error)}") from error
        return set(text.split())

    def strays(self) -> set[str]:
        """Other nodes' pods are not in this node's storage."""
        return set()

    def remove_stray(self, _name: str) -> None:
        """There are never any."""

    def _podman(
        self, *arguments: str, timeout_s: float = 0, cancelled: threading.Event | None = None
    ) -> str:
        return self._run(*arguments, timeout_s=timeout_s, cancelled=cancelled).stdout

    def _run(
        self, *arguments: str, timeout_s: float = 0, cancelled: threading.Event | None = None
    ) -> command.Completed:
        argv = [self._settings.command, *self._settings.global_options, *arguments]
        timeout_s = timeout_s or self._settings.timeout_s
        return command.run(
            argv, timeout_s=timeout_s, environment=self._environment, cancelled=cancelled
        )


def _is_unknown(error: CommandError) -> bool:
    return "no such pod" in error.stderr_tail or "no pod with name" in error.stderr_tail


def _look_at(name: str, container_id: str, pid: int, variables: dict[str, str]) -> Sandbox:
    process = kernel.open_process(pid)
    try:
        _check_its_own(process, container_id)
        first_process.await_init(process)
        path = variables.pop("PATH", "")
        cgroup = _pod_cgroup(cgroups.of_process(process))
        return Sandbox(name, pid, kernel.start_ticks(process), path, cgroup, variables)
    finally:
        os.close(process)


def _check_its_own(process: int, container_id: str) -> None:
    """Raise OSError when it is not the container's first: its pid may be anybody's by now."""
    cgroup = f"libpod-{container_id}"
    names = {name for names in roots_cgroup.made_by_root(process) for name in names}
    if not names & {cgroup, f"{cgroup}.scope"} or not roots_cgroup.is_first(process):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _pod_cgroup(paths: dict[str, str]) -> str:
    """Return the pod's own cgroup, where Podman manages it itself (cgroupfs), else ""."""
    parents = {path.rpartition("/")[0] for path in paths.values() if "/libpod-" in path}
    return next((path for path in parents if path.startswith(_OWN_CGROUPS)), "")


def _remove_cgroup(cgroup: str) -> None:
    """Remove what Podman 4.3.1 forgets: the hierarchies in which it sets no limit.

    On a busy node all of them, while conmon's last child is in one: no Epilog waits for it.
    """

    def is_gone() -> bool:
        return cgroups.remove(cgroup)

    if not is_gone():
        threading.Thread(target=_wait_until, args=(is_gone,), daemon=True).start()


def _kill_containers(cgroup: str) -> None:
    for name in cgroups.children(cgroup):
        if name != "conmon":
            cgroups.kill(f"{cgroup}/{name}")


def _wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _CONMON_TIMEOUT_S
    while not (is_met := condition()) and time.monotonic() < deadline:
        time.sleep(_CONMON_INTERVAL_S)
    return is_met
