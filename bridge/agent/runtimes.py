"""The runtimes that jobs of this node may have, and the sandboxes that are really in them."""

import threading
from collections.abc import Callable

from bridge.agent.this_node import ThisNode
from bridge.runtimes.host import HostRuntime
from bridge.runtimes.podman import PodmanRuntime
from bridge.runtimes.sandbox import Runtime

_STRAY_ROUNDS = 2  # of reconciliation: so often its own agent could have removed a sandbox


class Runtimes:
    """The site's runtimes; `on_ended` is told of a sandbox that ended by itself, and why."""

    def __init__(self, node: ThisNode, on_ended: Callable[[str, str], None]) -> None:
        agent = node.config.agent
        allowed = {agent.runtime, *agent.allowed_runtimes}
        starts = threading.BoundedSemaphore(agent.parallel_starts)
        # Also those that are not allowed any more: jobs that have them run on.
        self._known: dict[str, Runtime] = {
            "host": HostRuntime(),
            "podman": PodmanRuntime(node.config.podman, node.name, starts),
        }
        if "kubernetes" in allowed:
            # Its client takes a second and 50 MiB, which other sites need not spend.
            from bridge.runtimes.kubernetes.runtime import KubernetesRuntime

            self._known["kubernetes"] = KubernetesRuntime(
                node.config.kubernetes,
                node.name,
                _STRAY_ROUNDS * agent.reconcile_interval_s,
                agent.sandbox_start_timeout_s,
                node.log,
                on_ended,
            )
        self.in_use = [self._known[name] for name in sorted(allowed)]

    def __getitem__(self, name: str) -> Runtime:
        return self._known[name]

    def names(self) -> set[str]:
        """Return the sandboxes that are really there, of all runtimes in use."""
        return set().union(*(runtime.names() for runtime in self.in_use))

    def remove_orphan(self, name: str) -> None:
        """Remove a sandbox that no run owns."""
        for runtime in self._known.values():
            if name in runtime.names():
                runtime.remove(name, None)

    def strays(self) -> list[tuple[Runtime, str]]:
        """Return the sandboxes that other nodes' agents left, with their runtimes."""
        return [(runtime, name) for runtime in self.in_use for name in sorted(runtime.strays())]
