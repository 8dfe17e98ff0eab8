"""Where steps enter sandboxes: who asks, and what he waits for.

A step's connection is handed to its keeper; the agent then has no part in it.
"""

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bridge import cgroups, kernel, wire
from bridge.agent import blueprint, orders
from bridge.agent.forge import Forge
from bridge.agent.heritage import Heritage
from bridge.agent.job import JobRun, State
from bridge.agent.keepers import Keepers, is_hung_up
from bridge.agent.passage import Passage
from bridge.agent.sandboxes import Sandboxes
from bridge.config import Config
from bridge.errors import PermanentError, TemporaryError
from bridge.runtimes.sandbox import Sandbox

T = TypeVar("T")

_QUIET_S = 2.0
_LOOK_S = 1.0
_HIGHEST_DESCRIPTOR = 255
_WHY_S = 3.0  # the kubelet tells of an end within two seconds
_DIGITS = 10  # of a job id
_PART = b"SLURM_JOB_ID_HET_GROUP_"
_TASK_CGROUP = re.compile(r"/task_\d+$")


class RefusedError(Exception):
    """The step may not enter; the text is for its user."""


class Entrance:
    """Lets steps in, each in the thread of its connection."""

    def __init__(self, config: Config, sandboxes: Sandboxes, forge: Forge, log: Any) -> None:
        self._config = config
        self._sandboxes = sandboxes
        self._keepers = Keepers(forge)
        self._log = log

    def enter(
        self,
        connection: socket.socket,
        message: wire.Message,
        descriptors: list[int],
        pid: int,
        uid: int,
    ) -> None:
        """Hand a step to a keeper once its sandbox is there, or tell its user why it may not."""
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
                self._once_slurm_answers(
                    connection,
                    lambda: self._hand_over(connection, message, descriptors, caller, pid, job),
                )
        except RefusedError as refusal:
            fields: wire.Fields = [("text", os.fsencode(str(refusal))), ("exit_code", b"1")]
            wire.send(connection, wire.Message("failed", fields))
        finally:
            os.close(caller)

    def tell_why(
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
        named = _named_jobs(message, cgroups.job_of(cgroups.of_process(caller)))
        runs = self._sandboxes.runs
        job = next(filter(None, map(runs.latest, named)), None)
        job = job or self._recall(connection, named[0], uid)
        if job is None:
            raise RefusedError(
                f"job {named[0]} asked for no sandbox on this node. Write #K8S_IMAGE=… into "
                "the script's header instead of naming sbridge-run yourself"
            )
        if uid != job.request.uid or set(kernel.identity(caller).uids) != {uid}:
            raise RefusedError(f"job {job.run.job_id} is not yours")
        return job

    def _recall(self, connection: socket.socket, job_id: int, uid: int) -> JobRun | None:
        try:
            return self._once_slurm_answers(connection, lambda: self._sandboxes.recall(job_id, uid))
        except PermanentError as error:
            raise RefusedError(error.message) from error

    def _once_slurm_answers(self, connection: socket.socket, do: Callable[[], T]) -> T | None:
        """Do what needs a word of Slurm's, when that can be had; None when the caller went away."""
        while not is_hung_up(connection):
            try:
                return do()
            except TemporaryError as error:
                self._send_waiting(connection, f"waiting for Slurm: {error.message}")
                time.sleep(_LOOK_S)
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
            if is_hung_up(connection):
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
        fields += orders.file_to_run(message, job)
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
        _check_descriptors(message, descriptors)
        heritage = Heritage.of(pid, caller, message.every("ignored"))
        if set(heritage.owner.uids) != {job.request.uid}:
            raise RefusedError(f"job {job.run.job_id} is not yours")
        with Passage() as passage:
            cgroup = self._open(passage, sandbox, job, caller)
            passage.watch_stops(pid)
            told: wire.Fields = [
                ("cgroup", cgroup.encode()),
                *passage.orders,
                *heritage.orders(),
                *orders.of(message, caller, pid, job, self._sandboxes.node),
            ]
            passed = [connection.fileno(), caller, *passage.descriptors, *descriptors]
            step = f"{sandbox.name} {sandbox.init_pid} {_step_of(caller, pid)}"
            self._keepers.hold(step, wire.Message("enter", told), passed)
        self._log.info("step_entered", run=str(job.run), sandbox=sandbox.name, pid=pid)

    def _open(self, passage: Passage, sandbox: Sandbox, job: JobRun, caller: int) -> str:
        """Open the sandbox and the cgroups that the step shall be in; returns whose these are."""
        try:
            init = passage.open_sandbox(sandbox, self._namespaces())
        except OSError:
            raise RefusedError(_gone(job)) from None
        cgroup = self._cgroup_of(caller)
        try:
            passage.open_cgroups(caller if cgroup == "slurm" else init)
        except OSError as error:
            raise RefusedError(f"the sandbox could not be entered: {error}") from error
        return cgroup

    def _namespaces(self) -> tuple[bytes, ...]:
        """Return what a step joins; with the node's network goes the node's name."""
        if self._config.sandbox.host_network:
            return (b"ipc", b"pid", b"mnt")
        return (b"ipc", b"uts", b"net", b"pid", b"mnt")

    def _cgroup_of(self, caller: int) -> str:
        setting = self._config.agent.step_cgroup
        if setting != "auto":
            return setting
        return "slurm" if cgroups.is_slurms(cgroups.of_process(caller)) else "sandbox"


def _named_jobs(message: wire.Message, in_cgroup: int) -> list[int]:
    """Return the ids of the jobs that a step may be of, the likeliest first.

    Tasks of every part of a heterogeneous job are told the id of the first part, and of all
    parts; `in_cgroup` is the job whose cgroup the step is in, which tells them apart, or 0.
    """
    values = [pair.partition(b"=")[::2] for pair in message.every("env")]
    own = [_job_id(value) for key, value in values if key == b"SLURM_JOB_ID"]
    if not own or not own[0]:
        raise RefusedError("SLURM_JOB_ID does not name a job")
    parts = [_job_id(value) for key, value in values if key.startswith(_PART)]
    first = [in_cgroup] if in_cgroup in parts else []
    return [named for named in (*first, own[0], *parts, in_cgroup) if named]


def _step_of(caller: int, pid: int) -> str:
    """Return what only processes of one step have in common: their parent and their cgroups."""
    parent = kernel.parent(caller)
    if parent <= 1:
        return f"{pid}"  # an orphan
    shared = {_TASK_CGROUP.sub("", path) for path in cgroups.of_process(caller).values()}
    return " ".join([f"{parent}", *sorted(shared)])


def _job_id(value: bytes) -> int:
    return int(value) if value.isdigit() and len(value) <= _DIGITS else 0


def _gone(job: JobRun) -> str:
    return f"the sandbox of this job is gone: {job.why_lost(_WHY_S)}"


def _check_descriptors(message: wire.Message, descriptors: list[int]) -> None:
    """Raise `RefusedError` unless the numbers fit the descriptors: the keeper has its own, too."""
    numbers = message.every("fd")
    proper = {n for n in numbers if n.isdigit() and int(n) <= _HIGHEST_DESCRIPTOR}
    wanted = len(numbers) + bool(message.first("script"))
    if len(proper) != len(numbers) or wanted != len(descriptors):
        text = f"open files above number {_HIGHEST_DESCRIPTOR} cannot be passed into a sandbox"
        raise RefusedError(text)


def _with_time(text: str, waited_s: float) -> str:
    minutes = int(waited_s // 60)
    return f"{text} ({minutes} min)" if minutes else text
