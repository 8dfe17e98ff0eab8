"""Entry point of `sbridge-agent`: the daemon of one node."""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bridge import config_file
from bridge.agent import folders, forge, keeper, publication
from bridge.config import Config
from bridge.errors import ConfigError, SbridgeError

_EX_CONFIG = 78
_DEFAULT_BEAT_S = 5.0
_RETRY_S = 5.0
_LOOK_S = 1.0


def main() -> int:
    """Run the agent until SIGTERM; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sbridge-agent", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="sbridge.toml")
    parser.add_argument("--node", default="", help="slurmd's NodeName; default: short hostname")
    arguments = parser.parse_args()
    node = arguments.node or socket.gethostname().partition(".")[0]  # the unit's %i may be empty
    try:
        settings = config_file.load(config_file.find_path(arguments.config))
        # Before threads, logs and clients exist: the forge's children inherit none of them.
        handlers: dict[str, forge.Handler] = {
            "enter": keeper.enter,
            "publish": publication.serve,
            "place": folders.serve,
        }
        smithy = forge.start(handlers)
        return _Agent(settings, node, smithy).run()
    except ConfigError as error:
        print(f"sbridge-agent: {error}", file=sys.stderr)
        return _EX_CONFIG
    except SbridgeError as error:
        print(f"sbridge-agent: {error}", file=sys.stderr)
        return 1


class _Agent:
    def __init__(self, settings: Config, node: str, smithy: forge.Forge) -> None:
        from bridge import log
        from bridge.agent import blueprint, shim
        from bridge.agent.delivery import Deliveries
        from bridge.agent.sandboxes import Sandboxes
        from bridge.agent.server import Server
        from bridge.slurm.jobs import SlurmControl

        self._settings = settings
        self._node = node
        self._forge = smithy
        self._log = log.start(settings.logging, f"agent-{node}", node=node)
        self._slurm = SlurmControl(settings.slurm)
        self._sandboxes = Sandboxes(settings, node, self._slurm, smithy, self._log, self._finished)
        try:
            spool = self._sandboxes.node.spool
            blueprint.furnish_node(spool, settings.sandbox.init)
            shim.furnish(spool.share)
        except OSError as error:
            raise ConfigError(f"agent.spool_dir or sandbox.init: {error}") from error
        deliveries = Deliveries(self._sandboxes.gang, self._log)
        self._publisher = publication.Publisher(
            settings, node, self._sandboxes.runs, deliveries, self._slurm, smithy, self._log
        )
        self._sandboxes.runs.load()
        self._server = Server(settings, node, self._sandboxes, smithy, self._log)
        self._stop = threading.Event()

    def run(self) -> int:
        from bridge.notify import watchdog_interval_s

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        threading.excepthook = self._log_bug
        self._sandboxes.resume_work()
        self._publisher.start()
        self._server.start()
        threading.Thread(target=self._reconcile_for_ever, name="reconcile", daemon=True).start()
        self._log.info("agent_started", pid=os.getpid(), address=str(self._server.address))
        self._forge.notify("READY=1")
        beat_s = watchdog_interval_s() or _DEFAULT_BEAT_S
        while not self._stop.wait(beat_s):
            if not self._is_sound():
                return 1
            self._forge.notify("WATCHDOG=1")
        self._forge.notify("STOPPING=1")
        self._server.close()
        self._log.info("agent_stopped")
        return 0

    def _log_bug(self, crash: threading.ExceptHookArgs) -> None:
        error = crash.exc_value
        thread = crash.thread.name if crash.thread else "?"
        self._log.error("thread_crashed", thread=thread, exc_info=error)

    def _is_sound(self) -> bool:
        """Whether connections are still accepted; else the service manager must restart us."""
        if not self._server.is_alive:
            self._log.error("server_died")
        return self._server.is_alive

    def _finished(self, job: Any) -> None:
        self._publisher.finished(job)

    def _reconcile_for_ever(self) -> None:
        from bridge.agent.reconcile import reconcile

        while True:
            could_ask = False
            try:
                could_ask = reconcile(self._sandboxes, self._slurm, self._node, self._log)
            except Exception as error:  # noqa: BLE001 - a bug; the next round may do better
                self._log.error("reconcile_crashed", exc_info=error)
            if could_ask:
                self._log.debug("reconciled")
                self._wait_for_next_comparison()
            else:
                time.sleep(_RETRY_S)

    def _wait_for_next_comparison(self) -> None:
        """Return after `reconcile_interval_s`, or when a fault of the node may be over."""
        end = time.monotonic() + self._settings.agent.reconcile_interval_s
        while time.monotonic() < end and not self._sandboxes.health.is_due:
            time.sleep(_LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
