"""Bring the outputs of this node's runs to the NAS: while they run, and when they are over.

The agent itself never touches the NAS. It has the forge fork a child that becomes the
job's user for good and does one pass (bridge.results); a NAS that hangs holds only that
child. A lock in the run's folder keeps two children, also of two agents, from publishing
the same run at once.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge import command, kernel, wire
from bridge.agent import blueprint
from bridge.agent.delivery import Deliveries, has_outputs
from bridge.agent.facts import collect, identity
from bridge.agent.forge import Forge
from bridge.agent.job import JobRun
from bridge.agent.runs import Runs
from bridge.config import Config
from bridge.errors import CommandError, TemporaryError
from bridge.results import delivery, mirror, publish
from bridge.slurm.jobs import SlurmControl

_PASSES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "deliver": delivery.main,
    "mirror": mirror.main,
    "publish": publish.main,
}
_REMOVE_TIMEOUT_S = 3600.0
_NICENESS = 10
_AUTOGROUP = Path("/proc/self/autogroup")
_ABSENT = -1  # the size of a log that is not there, as that of a job without a script of its own
_CPU_SHARE = 4  # passes use at most this part of the node's CPUs
_BUSY = {"ok": False, "retry": True, "reason": "an earlier pass is still under way"}


def serve(message: wire.Message, descriptors: list[int]) -> None:
    """Handle the agent's `publish` in a child of the forge: one pass, as the job's user."""
    answer, lock = descriptors
    _stand_aside()
    kernel.renounce_privileges(
        int(message.first("uid")),
        int(message.first("gid")),
        [int(group) for group in message.every("group")],
    )
    os.umask(0o022)
    result = _BUSY
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        result = _PASSES[message.text("pass")](json.loads(message.first("plan")))
    except BlockingIOError:
        pass
    except Exception as error:  # noqa: BLE001 - told to the agent, which logs it and tries again
        result = {"ok": False, "retry": True, "reason": f"unexpected: {error!r}"}
    with socket.socket(fileno=answer) as channel:
        fields: wire.Fields = [("result", json.dumps(result).encode())]
        with contextlib.suppress(OSError):  # the agent has died; the next one sees what was done
            wire.send(channel, wire.Message("result", fields))


def _stand_aside() -> None:
    """Leave the node to running jobs and hooks: low priority, and on a few of its CPUs only.

    The low priority alone lets a pass hold a CPU for whole time slices while a hook waits;
    SCHED_IDLE would let a node that is full of jobs never publish at all. Where the kernel
    groups processes by session (sched(7), autogroup), a niceness counts within its session
    only: against slurmd's hooks the session's own counts.
    """
    with contextlib.suppress(OSError):  # a kernel without it
        _AUTOGROUP.write_text(str(_NICENESS))
    os.nice(_NICENESS)
    os.sched_setaffinity(0, _spare_cpus())


def _spare_cpus() -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-max(1, len(allowed) // _CPU_SHARE) :]


def _aside(argv: list[str]) -> list[str]:
    """Return a command that stands aside as the passes do; it must begin a session."""
    cpus = ",".join(map(str, _spare_cpus()))
    apart = f"{{ echo {_NICENESS} >{_AUTOGROUP}; }} 2>/dev/null"
    return ["sh", "-c", f'{apart}; exec nice -n {_NICENESS} taskset -c "$0" "$@"', cpus, *argv]


class Publisher:
    """Runs the passes, a few at a time: the living are mirrored, the finished published."""

    def __init__(
        self,
        config: Config,
        node: str,
        runs: Runs,
        deliveries: Deliveries,
        slurm: SlurmControl,
        forge: Forge,
        log: Any,
    ) -> None:
        self._config = config
        self._node = node
        self._runs = runs
        self._deliveries = deliveries
        self._slurm = slurm
        self._forge = forge
        self._log = log
        places = config.results.parallel_publications
        self._places = threading.BoundedSemaphore(places)
        # A pass has its user's uid, so he can stop it: half of the places stay for the others.
        self._places_of_one = max(1, places // 2)
        self._users: dict[int, threading.BoundedSemaphore] = {}
        self._users_lock = threading.Lock()
        self._mirrored: dict[str, tuple[int, int]] = {}
        self._under_way: set[str] = set()

    def start(self) -> None:
        """Begin to mirror the outputs of running NAS jobs."""
        threading.Thread(target=self._mirror_for_ever, name="mirror", daemon=True).start()

    def finished(self, job: JobRun) -> None:
        """Publish a run that is over, now or as soon as Slurm and the NAS allow."""
        threading.Thread(
            target=self._publish, args=(job,), name=f"publish-{job.run}", daemon=True
        ).start()

    def _mirror_for_ever(self) -> None:
        while True:
            try:
                self._mirror_all()
            except Exception as error:  # noqa: BLE001 - a bug; the next round may do better
                self._log.error("mirror_crashed", exc_info=error)
            time.sleep(self._config.results.mirror_interval_s)

    def _mirror_all(self) -> None:
        for job in self._runs.all():
            if job.request.is_nas_job and self._is_ours(job) and job.state.name != "finished":
                self._begin_mirror(job)

    def _begin_mirror(self, job: JobRun) -> None:
        """Mirror what is new, in a thread: a NAS that hangs must hold up one run only."""
        sizes = (_size(job.spool.stdout), _size(job.spool.stderr))
        is_new = sizes != self._mirrored.get(str(job.run), (_ABSENT, _ABSENT))
        if str(job.run) in self._under_way or not is_new:
            return
        self._under_way.add(str(job.run))
        threading.Thread(target=self._mirror, args=(job, sizes), daemon=True).start()

    def _mirror(self, job: JobRun, sizes: tuple[int, int]) -> None:
        try:
            self._mirror_once(job, sizes)
        finally:
            self._under_way.discard(str(job.run))

    def _mirror_once(self, job: JobRun, sizes: tuple[int, int]) -> None:
        result = self._pass(job, "mirror", self._plan(job))
        self._remember_folder(job, result)
        if result.get("ok"):
            if not result.get("more"):
                self._mirrored[str(job.run)] = sizes
        else:
            self._log.warning("mirror_delayed", **job.labels, reason=result.get("reason"))

    def _publish(self, job: JobRun) -> None:
        started = time.monotonic()
        if not self._is_ours(job) and not has_outputs(job):
            self._clear(job)
            return
        is_done = self._try_until_done(job, "publish" if self._is_ours(job) else "deliver")
        done, lost = ("published", "lost") if self._is_ours(job) else ("delivered", "kept")
        self._log.log(
            logging.INFO if is_done else logging.ERROR,
            f"results_{done if is_done else lost}",
            **job.labels,
            folder=job.state.results_folder if is_done else str(job.spool.outputs),
            duration_s=round(time.monotonic() - started, 3),
        )
        self._deliveries.done(job)
        if is_done or self._is_ours(job):
            self._clear(job)

    def _try_until_done(self, job: JobRun, name: str) -> bool:
        """Try until the pass has done its part; False when that can never be."""
        reason = ""
        make_plan = self._final_plan if name == "publish" else self._delivery_plan
        while True:
            try:
                plan = make_plan(job)
                result = self._pass(job, name, plan) if plan else {"ok": True}
            except TemporaryError as error:
                result = {"ok": False, "retry": True, "reason": str(error)}
            except Exception as error:  # noqa: BLE001 - a bug; the results wait for its mending
                self._log.error("publication_crashed", **job.labels, exc_info=error)
                result = {"ok": False, "retry": True, "reason": f"unexpected: {error!r}"}
            self._remember_folder(job, result)
            if result.get("ok") or not result.get("retry"):
                return bool(result.get("ok"))
            if result.get("reason") != reason:
                reason = str(result.get("reason"))
                self._log.warning("results_delayed", **job.labels, reason=reason)
            time.sleep(self._config.results.retry_s)

    def _is_ours(self, job: JobRun) -> bool:
        """Whether this node publishes the job: the batch host does, which is its first node."""
        return job.request.batch_host == self._node

    def _remember_folder(self, job: JobRun, result: dict[str, Any]) -> None:
        folder = result.get("folder", "")
        if folder and folder != job.state.results_folder:
            job.note(results_folder=folder)

    def _plan(self, job: JobRun) -> dict[str, Any]:
        return {
            "out": str(job.spool.out),
            "results": str(self._config.nas.results),
            "folder": job.state.results_folder,
            "facts": identity(job),
        }

    def _final_plan(self, job: JobRun) -> dict[str, Any] | None:
        """Return what to publish; None for a part of a job whose first part has all there is."""
        facts = collect(job, self._slurm)
        if facts["is_further_part"] and not has_outputs(job):
            return None
        for node in self._deliveries.wait(job):
            facts["warnings"].append(f"what is in $SBRIDGE_OUTPUTS of node {node} is not here")
        return {
            **self._plan(job),
            "facts": facts,
            "languages": list(self._config.messages.languages),
        }

    def _delivery_plan(self, job: JobRun) -> dict[str, Any] | None:
        return {**self._plan(job), "node": self._node}

    def _pass(self, job: JobRun, name: str, plan: dict[str, Any]) -> dict[str, Any]:
        uid, gid = job.request.uid, job.request.gid
        fields: wire.Fields = [("pass", name.encode()), ("plan", json.dumps(plan).encode())]
        fields += [("uid", b"%d" % uid), ("gid", b"%d" % gid)]
        fields += [("group", b"%d" % group) for group in blueprint.groups_of(uid, gid)]
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(job.spool.root / "publish.lock", flags, 0o600)
        ours, theirs = socket.socketpair()
        with self._place_of(uid), self._places, ours:
            try:
                with theirs:
                    self._forge.send(wire.Message("publish", fields), [theirs.fileno(), lock])
                answer, _ = wire.receive(ours)
            except (OSError, wire.WireError) as error:
                return {"ok": False, "retry": True, "reason": f"the pass ended: {error}"}
            finally:
                os.close(lock)
        if answer is None:
            return {"ok": False, "retry": True, "reason": "the pass ended without an answer"}
        result: dict[str, Any] = json.loads(answer.first("result"))
        return result

    def _place_of(self, uid: int) -> threading.BoundedSemaphore:
        with self._users_lock:
            return self._users.setdefault(uid, threading.BoundedSemaphore(self._places_of_one))

    def _clear(self, job: JobRun) -> None:
        """Remove the run's folder; its link only while no later run owns it."""
        keep_s = self._config.results.keep_local_h * 3600
        if keep_s:
            threading.Event().wait(keep_s)
        link = self._runs.spool.out_link(job.run.job_id)
        try:
            if os.readlink(link) == str(job.spool.out):
                link.unlink()
        except OSError:
            pass  # no link, or no longer ours
        try:
            # rm(1) takes trees of any depth and follows no link.
            remove = ["rm", "-rf", "--one-file-system", "--", str(job.spool.root)]
            command.run(_aside(remove), timeout_s=_REMOVE_TIMEOUT_S)
        except CommandError as error:
            self._log.error("spool_folder_stays", **job.labels, reason=str(error))
        self._mirrored.pop(str(job.run), None)
        self._runs.forget(job)


def _size(path: Any) -> int:
    try:
        return int(os.lstat(path).st_size)
    except OSError:
        return _ABSENT
