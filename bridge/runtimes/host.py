"""The runtime `host`: no sandbox; the step becomes its interpreter where it stands."""

from bridge.job_spool import JobSpool
from bridge.runtimes.sandbox import HostEntry, Sandbox, SandboxSpec, Waiter


class HostRuntime:
    """Gives every step an empty prefix."""

    def start(self, _spec: SandboxSpec, _spool: JobSpool, _waiter: Waiter) -> HostEntry:
        """There is nothing to make."""
        return HostEntry()

    def remove(self, _name: str, _sandbox: Sandbox | None) -> None:
        """There is nothing to remove."""

    def check(self) -> None:
        """There is nothing that could be broken."""

    def names(self) -> set[str]:
        """There are never any."""
        return set()
