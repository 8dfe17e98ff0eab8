"""What a runtime is asked for, what it gives, and who is to blame when it cannot."""

import threading
from dataclasses import dataclass, field
from typing import Protocol

from bridge.errors import PermanentError, SbridgeError, TemporaryError
from bridge.job_spool import JobSpool, RunId

_KILLED = 128  # and the signal's number


@dataclass(frozen=True)
class Mount:
    """A path of the node, seen inside at `target`."""

    source: str
    target: str
    read_only: bool = False
    is_file: bool = False

    @classmethod
    def of(cls, text: str) -> "Mount":
        """Read one of `sandbox.mounts`: a path that is seen at the same place, perhaps `:ro`."""
        path, _, option = text.partition(":")
        return cls(path, path, read_only=option == "ro")


@dataclass(frozen=True)
class SandboxSpec:
    """One job's sandbox on one node, before any runtime has seen it.

    `cpus` counts CPUs and `memory_mib` MiB, both what Slurm gave the job on this node; 0
    means no limit. `gpus` are the node's GPUs that Slurm gave, by index, and `devices` the
    device files by which programs reach them. The runtime mounts `mounts` only, and whoever
    starts the sandbox brings in `folders`, and Slurm's commands at `commands`, the node's folder
    of these ("": nowhere but in PATH).
    """

    name: str
    run: RunId
    node: str
    image: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    user: str
    account: str
    partition: str
    cpus: int
    memory_mib: int
    mounts: tuple[Mount, ...]
    host_network: bool
    gpus: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    folders: tuple[Mount, ...] = ()
    commands: str = ""


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox.

    `init_pid` and `init_start` (clock ticks since boot) name its first process on the node.
    `cgroup` is the path of the pod's cgroup, empty where the runtime does not care.
    `path` is the PATH that the image sets, empty when it sets none; `variables` are the others.
    """

    name: str
    init_pid: int
    init_start: int
    path: str = ""
    cgroup: str = ""
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HostEntry:
    """The step has no namespaces to join: it becomes its interpreter where it stands."""


class NotInstalledError(TemporaryError):
    """The runtime's program is not on this node."""


class UserError(PermanentError):
    """The sandbox cannot be made because of what the job asked for; fail the job at once."""


def ended_at_once(image: str, exit_code: int, why: str = "") -> SbridgeError:
    """Return who is to blame for a sandbox whose first process, the init, is no more.

    That one ends by a signal only. With another exit code the container runtime could not
    execute it in the end, for which the image's variables are the only reason that images have:
    execve(2) refuses one of 128 KiB, and megabytes of them.
    """
    if 0 < exit_code < _KILLED:
        return UserError(
            f"the sandbox with image {image} cannot be made: its first process cannot be started"
            f" (exit code {exit_code}), as with an image's variable (ENV) of 128 KiB and more"
        )
    told = why or f"exit code {exit_code}"
    return TemporaryError(f"the sandbox with image {image} ended at once: {told}")


class Waiter(Protocol):
    """Whoever waits for a sandbox: is told why, and may stop waiting.

    What is nobody's fault is not waited for any longer after `give_up_at`, as time.time()
    counts.
    """

    cancelled: threading.Event

    @property
    def give_up_at(self) -> float: ...

    def say(self, text: str) -> None:
        """Take words for the waiting user."""


class Runtime(Protocol):
    """A way to make sandboxes; one instance per agent, used by several threads."""

    def start(self, spec: SandboxSpec, spool: JobSpool, waiter: Waiter, /) -> Sandbox | HostEntry:
        """Make the sandbox and return when it runs; what an earlier try left is removed first.

        Ends soon, with any error, once the waiter has cancelled. Raises `UserError`,
        `TemporaryError` (nobody's fault) or `NodeError`.
        """

    def remove(self, name: str, sandbox: Sandbox | None, /) -> None:
        """Make the sandbox really gone; fine when there is none.

        `sandbox` is what `start` returned, None where that is not known any more.

        Raises `NodeError` when it stays.
        """

    def check(self) -> None:
        """Raise `NodeError` when this node can make no such sandboxes now, as far as one sees."""

    def names(self) -> set[str]:
        """Return the names of the sandboxes of this node's agent; raises `TemporaryError`."""

    def strays(self) -> set[str]:
        """Return sandboxes that another node's agent should have removed long ago.

        Only where this one may remove them; raises `TemporaryError`.
        """

    def remove_stray(self, name: str, /) -> None:
        """Have such a sandbox removed by its own node; raises `TemporaryError`."""
