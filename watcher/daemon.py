"""The watcher's loop: one thread, one selector, and a child for everything that may wait.

A job file's way:

1. dropped     submit/<name>. Noticed by inotify (closed or moved into place: taken at once) or
               by a scan (taken when it has not changed for settle_s).
2. claimed     submit/.sbridge/<tag>.<name>, by rename and durable. From here on the tag is the
               submission's name, and Slurm carries it in the job's comment.
3. accepted    sbatch said a job id, or Slurm knows a job with the tag.
4. processed   processed/<jobid>_<name> and its receipt.
5. failed      failed/<name> and <name>.error.txt: refused by the validator or by Slurm.

From 2 there are two ways when something went wrong. Slurm certainly did not take it (not
reached): it stays in 2, and sbatch is tried again later. Nobody knows (sbatch killed or timed
out, the watcher crashed):

6. doubtful    Every claimed file that this process did not claim itself begins here. While
               another process holds the submission's lock: wait. Then ask Slurm for the tag:
               found → 3; not found for doubt_settle_s → 2, submitted again; could not ask →
               ask later.

Nothing else is remembered: 1 to 6 can be told from the folders and Slurm alone, so kill -9 at
any moment loses nothing and submits nothing twice.
"""

import gc
import selectors
import signal
import socket
import time
from typing import Any

from inotify_simple import INotify, flags

from bridge.as_user import Child
from bridge.config import Config
from bridge.errors import SbridgeError
from bridge.notify import notify, watchdog_interval_s
from watcher import scan
from watcher.board import Board
from watcher.children import Children
from watcher.condition import Condition
from watcher.doubts import Doubts
from watcher.locks import StateFolder
from watcher.scan import Scan
from watcher.submissions import Submissions
from watcher.workplace import Workplace

_LAST_WORK_S = 3.0
_IDLE_S = 60.0
_RESCAN = flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED | flags.Q_OVERFLOW


class Watcher:
    """One watcher; `run` returns when it was told to stop."""

    def __init__(self, config: Config, state: StateFolder, log: Any) -> None:
        self._config = config
        self._state = state
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._children = Children(self._selector, log)
        self._board = Board(config.watcher.settle_s)
        place = Workplace(config, state, self._board, self._children, log)
        self._submissions = Submissions(place)
        self._doubts = Doubts(place)
        self._nas = Condition(log, "nas_unreachable", "nas_reachable")
        self._watching = Condition(log, "inotify_unavailable", "inotify_available")
        self._inotify: INotify | None = None
        self._watch: int | None = None
        self._scanner: Child | None = None
        self._next_scan = 0.0
        self._next_watchdog = 0.0
        self._is_ready = False
        self._stopping_since: float | None = None

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then give what is under way a moment to end."""
        wake_up, waker = socket.socketpair()
        wake_up.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        self._selector.register(wake_up, selectors.EVENT_READ, lambda: wake_up.recv(1024))
        gc.collect()
        gc.freeze()  # keeps the children from copying pages that nobody changes
        while not self._is_over():
            self._begin_what_is_due(time.monotonic())
            for key, _ in self._selector.select(self._pause_s(time.monotonic())):
                key.data()
            self._children.end_overdue(time.monotonic())
        self._children.end_all()

    def _stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            notify("STOPPING=1")

    def _is_over(self) -> bool:
        if self._stopping_since is None:
            return False
        has_ended = self._submissions.under_way == 0
        return has_ended or time.monotonic() - self._stopping_since > _LAST_WORK_S

    def _begin_what_is_due(self, now: float) -> None:
        interval_s = watchdog_interval_s()
        if interval_s is not None and now >= self._next_watchdog:
            notify("WATCHDOG=1")
            self._next_watchdog = now + interval_s
        if self._stopping_since is not None:
            return
        if now >= self._next_scan and not self._children.holds(self._scanner):
            self._begin_scan(now)
        if self._is_ready and self._nas.is_good:
            self._doubts.begin(now)
            self._submissions.begin(now)

    def _pause_s(self, now: float) -> float:
        """Return for how many seconds nothing is due."""
        times = [now + _IDLE_S, self._children.next_deadline()]
        if watchdog_interval_s() is not None:
            times.append(self._next_watchdog)
        if self._stopping_since is not None:
            times.append(self._stopping_since + _LAST_WORK_S)
        else:
            if not self._children.holds(self._scanner):
                times.append(self._next_scan)
            if self._is_ready and self._nas.is_good:
                times.append(self._board.next_retry(now))
                times.append(self._submissions.next_try())
                times.append(self._doubts.next_question())
        return max(min(moment for moment in times if moment is not None) - now, 0.0)

    def _begin_scan(self, now: float) -> None:
        self._next_scan = now + self._config.watcher.scan_interval_s
        self._board.begin_scan()
        inotify = self._open_inotify()
        self._scanner = self._children.begin(
            lambda: scan.scan(self._config.nas, inotify).as_json(),
            lambda found, trouble: self._scanned(now, found, trouble),
            timeout_s=self._config.watcher.nas_timeout_s,
            ends_with_parent=True,
        )

    def _open_inotify(self) -> INotify | None:
        """Return the one instance; None while root has as many as the machine allows."""
        if self._inotify is None:
            try:
                inotify = INotify(nonblocking=True)
            except OSError:
                return None
            self._selector.register(
                inotify, selectors.EVENT_READ, lambda: self._read_events(inotify)
            )
            self._inotify = inotify
        return self._inotify

    def _scanned(self, began: float, found: Any, trouble: SbridgeError | None) -> None:
        if trouble:
            self._nas.failed(f"{self._config.nas.submit}: {trouble}")
        else:
            self._nas.worked()
            self._note_scan(Scan.from_json(found), began)
        if not self._is_ready:
            self._is_ready = True
            notify("READY=1")
            self._log.info("watcher_started", submit=str(self._config.nas.submit))

    def _note_scan(self, result: Scan, began: float) -> None:
        now = time.monotonic()
        self._watch = result.watch
        if result.watch is None:
            self._watching.failed(result.watch_trouble)
        else:
            self._watching.worked()
        self._board.note_scan(result, began, now)
        self._state.sweep(set(self._board.claims))
        settling = self._board.next_settling()
        if settling is not None:
            self._next_scan = min(self._next_scan, max(settling, now))

    def _read_events(self, inotify: INotify) -> None:
        now = time.monotonic()
        for event in inotify.read(timeout=0):
            if event.mask & _RESCAN:
                self._next_scan = now
            # A higher number is a watch that a scan has set and not told yet; a lower one
            # is that of a folder that was submit/ once.
            elif event.name and event.wd >= (self._watch or 0):
                self._board.note_event(event.name, now)
