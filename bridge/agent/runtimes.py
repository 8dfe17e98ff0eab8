"""The runtimes that jobs of this node may have, and the sandboxes that are really in them."""

import threading
from collections.abc import Callable
from pathlib import Path

from bridge.agent.this_node import ThisNode
from bridge.errors import ConfigError, NodeError, TemporaryError
from bridge.runtimes.host import HostRuntime
from bridge.runtimes.podman import PodmanRuntime
from bridge.runtimes.sandbox import NotInstalledError, Runtime

_STRAY_ROUNDS = 2  # of reconciliation: so often its own agent could have removed a sandbox


class Runtimes:
    """The site's runtimes; `on_ended` is told of a sandbox that ended by itself, and why."""

    def __init__(self, node: ThisNode, on_ended: Callable[[str, str], None]) -> None:
        agent = node.config.agent
        self._log = node.log
        self._allowed = {agent.runtime, *agent.allowed_runtimes}
        starts = threading.BoundedSemaphore(agent.parallel_starts)
        # Also those that are not allowed any more: jobs that have them run on.
        self._known: dict[str, Runtime] = {
            "host": HostRuntime(),
            "podman": PodmanRuntime(node.config.podman, node.name, starts),
        }
        # Its client takes a second and 50 MiB, which sites without a cluster need not spend.
        if "kubernetes" in self._allowed:
            self._known["kubernetes"] = _kubernetes(node, on_ended)
        elif Path(node.config.kubernetes.kubeconfig).is_file():  # "" is a folder
            try:
                self._known["kubernetes"] = _kubernetes(node, on_ended)
            except ConfigError as error:  # new jobs do not need it
                self._log.warning("runtime_not_asked", runtime="kubernetes", reason=error.message)
        self.in_use = [self._known[name] for name in sorted(self._allowed)]

    def __getitem__(self, name: str) -> Runtime:
        """Return a runtime; raises `NodeError` when the configuration gives no access any more."""
        try:
            return self._known[name]
        except KeyError:
            raise NodeError(
                f"nothing configures runtime {name} any more:"
                " have it in agent.allowed_runtimes until its jobs are over"
            ) from None

    def known(self) -> list[str]:
        """Return the names of all runtimes that may have sandboxes."""
        return sorted(self._known)

    def names(self, runtime: str) -> set[str]:
        """Return the sandboxes that are really in a runtime; raises `TemporaryError`.

        Of one that new jobs may not have, what cannot be asked holds nothing up.
        """
        try:
            return self._known[runtime].names()
        except TemporaryError as error:
            if runtime in self._allowed:
                raise
            if not isinstance(error, NotInstalledError):
                self._log.warning("runtime_not_asked", runtime=runtime, reason=error.message)
            return set()

    def strays(self) -> list[tuple[Runtime, str]]:
        """Return the sandboxes that other nodes' agents left, with their runtimes."""
        return [(runtime, name) for runtime in self.in_use for name in sorted(runtime.strays())]


def _kubernetes(node: ThisNode, on_ended: Callable[[str, str], None]) -> Runtime:
    from bridge.runtimes.kubernetes.runtime import KubernetesRuntime

    agent = node.config.agent
    return KubernetesRuntime(
        node.config.kubernetes,
        node.name,
        _STRAY_ROUNDS * agent.reconcile_interval_s,
        agent.sandbox_start_timeout_s,
        node.log,
        on_ended,
    )
