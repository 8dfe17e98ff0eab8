"""The agent's socket: hooks (root) prepare and finish jobs, users' steps enter sandboxes.

One thread per connection. Who asks is known from the kernel (SO_PEERCRED), never from the
message. A step's connection is handed to its keeper; the agent then has no part in it.
"""

import collections
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from bridge import kernel, wire
from bridge.agent import blueprint, rendezvous, shim
from bridge.agent.budget import Budget, BusyError, Purse
from bridge.agent.forge import Forge
from bridge.agent.job import JobRun, State
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Config
from bridge.errors import NodeError, PermanentError, SbridgeError, TemporaryError

_QUIET_S = 2.0
_LOOK_S = 1.0
_SILENCE_S = 10.0  # between the pieces of a first message
_BACKLOG = 512
_CONNECTIONS_PER_USER = 128
_HIGHEST_DESCRIPTOR = 255
_WHY_S = 3.0  # the kubelet tells of an end within two seconds
_DIGITS = 10  # of a job id


class RefusedError(Exception):
    """The step may not enter; the text is for its user."""


class Server:
    """Listens on <run_dir>/<node>/agent.sock."""

    def __init__(
        self, config: Config, node: str, sandboxes: Sandboxes, forge: Forge, log: Any
    ) -> None:
        self._config = config
        self._sandboxes = sandboxes
        self._forge = forge
        self._log = log
        self.address = config.agent.run_dir / node / "agent.sock"
        self._listener = _listen(self.address)
        self._connections: collections.Counter[int] = collections.Counter()
        self._budget = Budget()
        self._lock = threading.Lock()
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
                time.sleep(_LOOK_S)  # out of descriptors: conversations must end first
                continue
            _, uid, _ = _peer(connection)
            if self._connections[uid] >= _CONNECTIONS_PER_USER and uid != 0:
                with connection:  # sbridge-run tries again; nobody shuts out the hooks
                    _turn_away(connection, "busy", f"{_CONNECTIONS_PER_USER} steps are waiting")
                continue
            if uid != 0:  # a step, which will need it
                threading.Thread(target=kernel.expect_cgroup_move, daemon=True).start()
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
            self._enter(connection, message, descriptors, pid, uid)
        elif message.kind == "why":
            self._tell_why(connection, message, pid, uid)
        else:
            text = f"{message.kind!r} is not for uid {uid}".encode()
            wire.send(connection, wire.Message("refused", [("text", text)]))

    def _hook(self, message: wire.Message) -> wire.Message:
        variables = {key: value.decode("utf-8", "replace") for key, value in message.fields}
        started = time.monotonic()
        try:
            if message.kind == "prepare":
                self._sandboxes.prepare(variables)
            else:
                self._sandboxes.finish(variables)
        except NodeError as error:
            self._sandboxes.health.found_fault()
            self._log.error("hook_failed", kind=message.kind, reason=str(error))
            return wire.Message("failed", [("text", os.fsencode(error.message))])
        except SbridgeError as error:
            self._log.warning("hook_ignored", kind=message.kind, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a bug about one job is not this node's fault
            self._log.error("hook_crashed", kind=message.kind, exc_info=error)
        self._log.debug("hook_answered", kind=message.kind, duration_s=time.monotonic() - started)
        return wire.Message("ok")

    def _enter(
        self,
        connection: socket.socket,
        message: wire.Message,
        descriptors: list[int],
        pid: int,
        uid: int,
    ) -> None:
        try:
            caller = kernel.open_process(pid)
        except OSError:
            return  # the caller has died since
        try:
            job = self._job_of(connection, message, caller, uid)
            state = self._wait_for_sandbox(connection, job)
            if state is None:
                return
            if state.sandbox is None:
                self._send_native(connection, message, job)
            else:
                self._hand_over(connection, message, descriptors, caller, pid, job)
        except RefusedError as refusal:
            fields: wire.Fields = [("text", os.fsencode(str(refusal))), ("exit_code", b"1")]
            wire.send(connection, wire.Message("failed", fields))
        finally:
            os.close(caller)

    def _tell_why(
        self, connection: socket.socket, message: wire.Message, pid: int, uid: int
    ) -> None:
        """Tell a step why its sandbox ended; nothing while that is there."""
        try:
            caller = kernel.open_process(pid)
        except OSError:
            return
        try:
            why = self._job_of(connection, message, caller, uid).why_lost(_WHY_S)
        except RefusedError:
            why = ""
        finally:
            os.close(caller)
        wire.send(connection, wire.Message("why", [("text", os.fsencode(why))]))

    def _job_of(
        self, connection: socket.socket, message: wire.Message, caller: int, uid: int
    ) -> JobRun:
        prefix = b"SLURM_JOB_ID="
        values = [pair[len(prefix) :] for pair in message.every("env") if pair.startswith(prefix)]
        if not values or not values[0].isdigit() or len(values[0]) > _DIGITS:
            raise RefusedError("SLURM_JOB_ID does not name a job")
        job = self._sandboxes.runs.latest(int(values[0]))
        job = job or self._recall(connection, int(values[0]), uid)
        if job is None:
            raise RefusedError(
                f"job {int(values[0])} asked for no sandbox on this node. Write #K8S_IMAGE=… into "
                "the script's header instead of naming sbridge-run yourself"
            )
        if uid != job.request.uid or set(kernel.identity(caller).uids) != {uid}:
            raise RefusedError(f"job {job.run.job_id} is not yours")
        return job

    def _recall(self, connection: socket.socket, job_id: int, uid: int) -> JobRun | None:
        while not _hung_up(connection):
            try:
                return self._sandboxes.recall(job_id, uid)
            except TemporaryError as error:
                self._send_waiting(connection, f"waiting for Slurm: {error.message}")
                time.sleep(_LOOK_S)
            except PermanentError as error:
                raise RefusedError(error.message) from error
        return None

    def _wait_for_sandbox(self, connection: socket.socket, job: JobRun) -> State | None:
        """Return the state once steps may enter, None when the caller went away."""
        started = time.monotonic()
        said = progress = ""
        while True:
            self._sandboxes.gathering.begin(job)
            with job.changed:
                if not job.is_settled and job.progress == progress:
                    job.changed.wait(_LOOK_S)
                state, progress, is_urgent = job.state, job.progress, job.is_urgent
                is_settled = job.is_settled
            if state.reason:
                raise RefusedError(state.reason)
            if state.name == "ready" and is_settled:
                if said and progress != said:
                    self._send_waiting(connection, progress)
                return state
            if state.name == "finished":
                raise RefusedError("the job is over")
            if _hung_up(connection):
                return None
            waited_s = time.monotonic() - started
            text = _with_time(progress, waited_s)
            if (waited_s > _QUIET_S or is_urgent) and text != said:
                said = text
                self._send_waiting(connection, text)

    @staticmethod
    def _send_waiting(connection: socket.socket, text: str) -> None:
        wire.send(connection, wire.Message("waiting", [("text", os.fsencode(text))]))

    def _send_native(self, connection: socket.socket, message: wire.Message, job: JobRun) -> None:
        given = message.every("env")
        added = [pair for pair in blueprint.environment(given, None, job) if pair not in given]
        fields: wire.Fields = [("env", pair) for pair in added]
        fields += _file_to_run(message, job)
        if job.request.asked.workdir:
            fields.append(("cwd", job.request.asked.workdir.encode()))
        wire.send(connection, wire.Message("exec", fields))

    def _hand_over(
        self,
        connection: socket.socket,
        message: wire.Message,
        descriptors: list[int],
        caller: int,
        pid: int,
        job: JobRun,
    ) -> None:
        sandbox = job.state.sandbox
        if sandbox is None:
            raise RefusedError("the job is over")
        try:
            init = kernel.open_process(sandbox.init_pid)
        except OSError:
            raise RefusedError(_gone(job)) from None
        try:
            if kernel.start_ticks(init) != sandbox.init_start:
                raise RefusedError(_gone(job))
            _check_descriptors(message, descriptors)
            orders = self._orders(message, caller, pid, job)
            passed = [connection.fileno(), caller, init, *descriptors]
            self._forge.send(wire.Message("enter", orders), passed)
        finally:
            os.close(init)
        self._log.info("step_entered", run=str(job.run), sandbox=sandbox.name, pid=pid)

    def _orders(self, message: wire.Message, caller: int, pid: int, job: JobRun) -> wire.Fields:
        sandbox = job.state.sandbox
        assert sandbox is not None
        asked = job.request.asked
        directories = [asked.workdir.encode(), message.first("cwd")]
        if message.first("task"):
            directories.reverse()  # where srun was started comes first
        door = f"{pid}-{kernel.start_ticks(caller)}"
        orders: wire.Fields = [
            ("uid", b"%d" % job.request.uid),
            ("caller_pid", b"%d" % pid),
            ("init_start", b"%d" % sandbox.init_start),
            ("cgroup", self._cgroup_of(caller).encode()),
            ("warnings", os.fsencode(job.spool.warnings)),
            ("task", message.first("task")),
            ("door", os.fsencode(job.spool.steps / door)),
            ("bin_dir", os.fsencode(self._config.slurm.bin_dir)),
            ("runner", message.first("runner")),
            ("job", b"%d" % job.run.job_id),
        ]
        orders += [("namespace", name) for name in self._namespaces()]
        orders += [("cwd", directory) for directory in directories if directory]
        orders += [("fd", number) for number in message.every("fd")]
        orders += [("arg", argument) for argument in message.every("arg")]
        script = self._script_copy(message, job)
        given = rendezvous.extended(message.every("env"), job, is_batch=script is not None)
        orders += [("env", pair) for pair in _environment(given, job, door)]
        orders += _file_to_run(message, job)
        if script is not None:
            orders.append(("script_copy", os.fsencode(script)))
        return orders

    def _namespaces(self) -> tuple[bytes, ...]:
        """Return what a step joins; with the node's network goes the node's name."""
        if self._config.sandbox.host_network:
            return (b"ipc", b"pid", b"mnt")
        return (b"ipc", b"uts", b"net", b"pid", b"mnt")

    def _script_copy(self, message: wire.Message, job: JobRun) -> Path | None:
        """Return where the sandbox shows the batch script, if this step runs it."""
        if not message.first("script"):
            return None
        native = self._sandboxes.node.script_dir(job.run.job_id) / "slurm_script"
        if os.fsencode(native) not in message.every("arg"):
            return None
        return job.spool.script_dir / "slurm_script"

    def _cgroup_of(self, caller: int) -> str:
        setting = self._config.agent.step_cgroup
        if setting != "auto":
            return setting
        return "slurm" if kernel.in_slurm_cgroup(kernel.cgroup_paths(caller)) else "sandbox"


def _environment(given: list[bytes], job: JobRun, door: str) -> list[bytes]:
    return blueprint.environment(given, job.state.sandbox, job, f"{shim.DOORS}/{door}")


def _gone(job: JobRun) -> str:
    return f"the sandbox of this job is gone: {job.why_lost(_WHY_S)}"


def _file_to_run(message: wire.Message, job: JobRun) -> wire.Fields:
    """Return the file that runs in place of a batch script without a command, if one is named."""
    file = job.request.asked.script if message.first("idle") else ""
    return [("file", file.encode())] if file else []


def _check_descriptors(message: wire.Message, descriptors: list[int]) -> None:
    """Raise `RefusedError` unless the numbers fit the descriptors: the keeper has its own, too."""
    numbers = message.every("fd")
    proper = {n for n in numbers if n.isdigit() and int(n) <= _HIGHEST_DESCRIPTOR}
    wanted = len(numbers) + bool(message.first("script"))
    if len(proper) != len(numbers) or wanted != len(descriptors):
        text = f"open files above number {_HIGHEST_DESCRIPTOR} cannot be passed into a sandbox"
        raise RefusedError(text)


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


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _with_time(text: str, waited_s: float) -> str:
    minutes = int(waited_s // 60)
    return f"{text} ({minutes} min)" if minutes else text
