"""The agent's socket: hooks (root) prepare and finish jobs, users' steps enter sandboxes.

One thread per connection. Who asks is known from the kernel (SO_PEERCRED), never from the
message. What becomes of a step is told in `entrance.py`.
"""

import collections
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from bridge import cgroups, wire
from bridge.agent.budget import Budget, BusyError, Purse
from bridge.agent.entrance import Entrance
from bridge.agent.forge import Forge
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Config
from bridge.errors import NodeError, SbridgeError

_PAUSE_S = 1.0
_SILENCE_S = 10.0  # between the pieces of a first message
_BACKLOG = 512
_CONNECTIONS_PER_USER = 128
_MOVE_LASTS_S = 0.005  # a step moves to its cgroups; what that waits for comes of idle time


class Server:
    """Listens on <run_dir>/<node>/agent.sock."""

    def __init__(
        self, config: Config, node: str, sandboxes: Sandboxes, forge: Forge, log: Any
    ) -> None:
        self._sandboxes = sandboxes
        self._entrance = Entrance(config, sandboxes, forge, log)
        self._log = log
        self.address = config.agent.run_dir / node / "agent.sock"
        self._listener = _listen(self.address)
        self._connections: collections.Counter[int] = collections.Counter()
        self._budget = Budget()
        self._lock = threading.Lock()
        self._move_expected = 0.0
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether connections are still accepted."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop listening; open conversations go on until the process ends."""
        self.address.unlink(missing_ok=True)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._listener.fileno() < 0:
                    return
                self._log.error("accept_failed", reason=str(error))
                time.sleep(_PAUSE_S)  # out of descriptors: conversations must end first
                continue
            _, uid, _ = _peer(connection)
            if self._connections[uid] >= _CONNECTIONS_PER_USER and uid != 0:
                with connection:  # sbridge-run tries again; nobody shuts out the hooks
                    _turn_away(connection, "busy", f"{_CONNECTIONS_PER_USER} steps are waiting")
                continue
            if uid != 0 and time.monotonic() > self._move_expected + _MOVE_LASTS_S:
                self._move_expected = time.monotonic()
                threading.Thread(target=cgroups.expect_move, daemon=True).start()
            with self._lock:
                self._connections[uid] += 1
            threading.Thread(target=self._converse, args=(connection, uid), daemon=True).start()

    def _converse(self, connection: socket.socket, uid: int) -> None:
        purse = Purse(self._budget, uid)
        try:
            self._answer(connection, purse)
        finally:
            purse.close()
            with self._lock:
                self._connections[uid] -= 1

    def _answer(self, connection: socket.socket, purse: Purse) -> None:
        with connection:
            connection.settimeout(_SILENCE_S)
            try:
                message, descriptors = wire.receive(connection, pay=purse.pay)
            except BusyError as error:
                _turn_away(connection, "busy", str(error))
                return
            except (OSError, wire.WireError) as error:
                self._log.warning("message_refused", reason=str(error))
                if purse.uid:  # a hook asks again; refused, it would drain the node
                    _turn_away(connection, "failed", f"this step cannot be run: {error}")
                return
            if message is None:
                return
            try:
                self._dispatch(connection, message, descriptors)
            except OSError as error:
                self._log.info("caller_gone", kind=message.kind, reason=str(error))
            finally:
                wire.close_all(descriptors)

    def _dispatch(
        self, connection: socket.socket, message: wire.Message, descriptors: list[int]
    ) -> None:
        pid, uid, _ = _peer(connection)
        if message.kind in ("prepare", "finish") and uid == 0:
            wire.send(connection, self._hook(message))
        elif message.kind == "enter":
            self._entrance.enter(connection, message, descriptors, pid, uid)
        elif message.kind == "why":
            self._entrance.tell_why(connection, message, pid, uid)
        else:
            text = f"{message.kind!r} is not for uid {uid}".encode()
            wire.send(connection, wire.Message("refused", [("text", text)]))

    def _hook(self, message: wire.Message) -> wire.Message:
        variables = {key: value.decode("utf-8", "replace") for key, value in message.fields}
        log = self._log.bind(kind=message.kind, job_id=variables.get("SLURM_JOB_ID"))
        started = time.monotonic()
        try:
            if message.kind == "prepare":
                self._sandboxes.prepare(variables)
            else:
                self._sandboxes.finish(variables)
        except NodeError as error:
            self._sandboxes.health.found_fault()
            log.error("hook_failed", reason=str(error))
            return wire.Message("failed", [("text", os.fsencode(error.message))])
        except SbridgeError as error:
            log.warning("hook_ignored", reason=str(error))
        except Exception as error:  # a bug about one job is not this node's fault
            log.error("hook_crashed", exc_info=error)
        log.debug("hook_answered", duration_s=time.monotonic() - started)
        return wire.Message("ok")


def _listen(address: Path) -> socket.socket:
    address.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    draft = address.with_name(f".{address.name}.new")
    draft.unlink(missing_ok=True)
    listener.bind(str(draft))
    draft.chmod(0o666)
    listener.listen(_BACKLOG)
    draft.rename(address)  # whoever connects finds the old agent's socket or ours, never none
    return listener


def _turn_away(connection: socket.socket, kind: str, text: str) -> None:
    """Say why and no more; whoever does not listen is not waited for."""
    connection.settimeout(0)
    try:
        wire.send(connection, wire.Message(kind, [("text", text.encode())]))
    except OSError:
        pass


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", data)
    return pid, uid, gid
