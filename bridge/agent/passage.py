"""What the agent opens for a keeper: the sandbox, the step's cgroups, a look at sbridge-run."""

import os
from collections.abc import Iterable
from types import TracebackType

from bridge import cgroups, kernel, wire
from bridge.agent import stop_watch
from bridge.runtimes.sandbox import Sandbox

_READ = os.O_RDONLY | os.O_CLOEXEC


class Passage:
    """One task's descriptors, in the order of its methods, and the orders that tell of them.

    `bridge.agent.entry` takes them apart. Leaving the context closes them.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.orders: wire.Fields = []

    def __enter__(self) -> "Passage":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        wire.close_all(self.descriptors)

    def open_sandbox(self, sandbox: Sandbox, namespaces: Iterable[bytes]) -> int:
        """Open the sandbox's first process and these of its namespaces, in the order of joining.

        Returns the former, a descriptor of its /proc folder; raises OSError when it is gone.
        """
        init = kernel.open_process(sandbox.init_pid)
        self.descriptors.append(init)
        if kernel.start_ticks(init) != sandbox.init_start:
            raise ProcessLookupError
        for name in namespaces:
            self.descriptors.append(os.open(b"ns/" + name, _READ, dir_fd=init))
            self.orders.append(("namespace", name))
        return init

    def open_cgroups(self, home: int) -> None:
        """Open those of a process's cgroups that the forge is not in: each move takes time."""
        forge = kernel.open_process(os.getppid())
        try:
            here = cgroups.of_process(forge)
        finally:
            os.close(forge)
        there = cgroups.of_process(home)
        others = {kind: path for kind, path in there.items() if here.get(kind) != path}
        opened = cgroups.open_lists(others)
        self.descriptors += opened
        self.orders.append(("cgroups", b"%d" % len(opened)))

    def watch_stops(self, pid: int) -> None:
        """Have the kernel tell when sbridge-run may have been stopped, if it can."""
        try:
            self.descriptors.append(stop_watch.watch_switches(pid))
            self.orders.append(("switches", b"1"))
        except OSError:
            pass  # a kernel without perf events: SIGSTOP stays with sbridge-run
