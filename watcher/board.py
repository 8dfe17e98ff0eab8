"""What the watcher knows about every job file, in memory: pure bookkeeping, no I/O.

Times are of time.monotonic() and given by the caller. The board can always be made anew from
a scan: the truth is in the NAS folders and in Slurm.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from bridge.slurm.lookup import FoundJob
from watcher import names
from watcher.scan import Entry, Scan

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0


class Phase(Enum):
    """How far a claimed file is."""

    DOUBTFUL = "it may be a job or not: Slurm must be asked for its tag"
    WAITING = "it is no job: to be submitted"
    ACCEPTED = "it is a job: to be put away"


@dataclass
class _Tried:
    """Something that is tried until it works, with growing pauses."""

    not_before: float = 0.0
    attempts: int = 0
    is_under_way: bool = False
    trouble: str = ""

    def put_off(self, now: float, reason: str) -> bool:
        """Try again later; return whether the reason is a new one."""
        is_new = reason != self.trouble
        self.trouble = reason
        self.not_before = now + delay_s(self.attempts)
        self.attempts += 1
        return is_new


@dataclass
class Drop(_Tried):
    """A file in submit/.

    `uid` is its owner, -1 until a scan or a child has seen him.
    `is_ready` when it may be taken: somebody closed or moved it into place, or it has not
    changed for a while (`is_settled`). `is_known_good` when it was looked at while Slurm was
    away. `came_again` when a new file of this name came while the old one was being taken.
    """

    name: str = ""
    uid: int = -1
    noticed: float = 0.0
    order_ns: int = 0
    fingerprint: tuple[int, ...] = ()
    unchanged_since: float = 0.0
    is_ready: bool = False
    is_settled: bool = False
    is_known_good: bool = False
    came_again: bool = False


@dataclass
class Claim(_Tried):
    """A claimed file; `entry` is its name in the claim folder.

    It cannot have become a job before `since` (seconds since the epoch). `denied_since` is
    when Slurm first did not know the tag.
    """

    tag: str = ""
    entry: str = ""
    uid: int = -1
    since: float = 0.0
    order_ns: int = 0
    noticed: float = 0.0
    phase: Phase = Phase.DOUBTFUL
    denied_since: float | None = None
    job: FoundJob | None = None

    @property
    def name(self) -> str:
        return self.entry.partition(".")[2]


@dataclass
class Board:
    """All job files; `settle_s` as in the configuration."""

    settle_s: float
    drops: dict[str, Drop] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)

    def note_event(self, name: str, now: float) -> None:
        """Note that `name` was closed after writing, or moved into submit/."""
        if names.is_ignored(name):
            return
        drop = self.drops.setdefault(name, Drop(name=name, noticed=now, order_ns=_LAST))
        drop.noticed = now
        drop.uid = -1
        drop.came_again = drop.is_under_way
        drop.is_ready = True
        drop.is_settled = False
        drop.is_known_good = False
        drop.not_before = now

    def begin_scan(self) -> None:
        """Note that a scan begins: what ends from now on may still be in its answer."""
        self._over.clear()

    def note_scan(self, scan: Scan, began: float, now: float) -> None:
        """Note what a scan found that began at `began`."""
        present = {entry.name: entry for entry in scan.drops if not names.is_ignored(entry.name)}
        for name in [name for name, drop in self.drops.items() if drop.noticed < began]:
            if name not in present and not self.drops[name].is_under_way:
                del self.drops[name]
        for entry in present.values():
            self._note_drop(entry, now)
        self._note_claims(scan.claims, began, now)

    def _note_drop(self, entry: Entry, now: float) -> None:
        drop = self.drops.setdefault(entry.name, Drop(name=entry.name, noticed=now))
        drop.order_ns = entry.changed_ns
        drop.uid = entry.uid
        if drop.fingerprint != entry.fingerprint:
            drop.fingerprint = entry.fingerprint
            drop.unchanged_since = now
            drop.is_known_good = False
        if now - drop.unchanged_since >= self.settle_s:
            drop.is_ready = drop.is_settled = True

    def _note_claims(self, entries: Iterable[Entry], began: float, now: float) -> None:
        found = {}
        for entry in entries:
            parts = names.parse_claimed(entry.name)
            if parts and parts[0] not in self._over:
                found[parts[0]] = entry
        for tag, claim in list(self.claims.items()):
            if tag not in found and not claim.is_under_way and claim.noticed < began:
                del self.claims[tag]
        for tag, entry in found.items():
            if tag in self.claims:
                continue
            self.claims[tag] = Claim(
                tag=tag,
                entry=entry.name,
                uid=entry.uid,
                since=entry.changed_ns / 1e9,
                order_ns=entry.changed_ns,
                noticed=now,
            )

    def forget_drop(self, name: str, now: float) -> None:
        """Note that the file is no longer in submit/, unless a new one came meanwhile."""
        drop = self.drops.pop(name, None)
        if drop and drop.came_again:
            self.note_event(name, now)

    def forget_claim(self, tag: str) -> None:
        """Note that the claimed file was put away, or is gone."""
        self.claims.pop(tag, None)
        self._over.add(tag)

    def begin_claim(self, tag: str, entry: str, now: float) -> Claim:
        """Note that a child is about to claim a file under this tag."""
        self.claims[tag] = Claim(tag=tag, entry=entry, noticed=now, is_under_way=True)
        return self.claims[tag]

    def drop_claim(self, tag: str) -> None:
        """Note that a claim was not made, or that nobody knows whether it was."""
        self.claims.pop(tag, None)

    def ready_claims(self, phase: Phase, now: float) -> list[Claim]:
        """Return the claims to be worked on now, oldest first."""
        ready = [
            claim
            for claim in self.claims.values()
            if claim.phase is phase and not claim.is_under_way and claim.not_before <= now
        ]
        return sorted(ready, key=lambda claim: claim.order_ns)

    def ready_drops(self, now: float) -> list[Drop]:
        """Return the drops to be taken now, oldest first."""
        ready = [
            drop
            for drop in self.drops.values()
            if drop.is_ready and not drop.is_under_way and drop.not_before <= now
        ]
        return sorted(ready, key=lambda drop: (drop.order_ns, drop.noticed))

    def waiting_for_slurm(self) -> set[int]:
        """Return whose files are to be submitted as soon as Slurm is reached."""
        claims = {claim.uid for claim in self.claims.values() if claim.phase is Phase.WAITING}
        return claims | {drop.uid for drop in self.drops.values() if drop.is_known_good}

    def has_doubts(self) -> bool:
        """Whether there is something to ask Slurm for."""
        return any(claim.phase is Phase.DOUBTFUL for claim in self.claims.values())

    def next_settling(self) -> float | None:
        """Return when a scan may find the next file settled, None when none is settling."""
        times = [
            drop.unchanged_since + self.settle_s
            for drop in self.drops.values()
            if not drop.is_ready and drop.fingerprint
        ]
        return min(times, default=None)

    def next_retry(self, now: float) -> float | None:
        """Return when the next thing that was put off is due, None when nothing was."""
        tried: list[_Tried] = [*self.drops.values(), *self.claims.values()]
        times = [one.not_before for one in tried if not one.is_under_way and one.not_before > now]
        return min(times, default=None)


def delay_s(attempts: int) -> float:
    """Return the pause after the n-th failed attempt: 1, 2, 4 … 60 seconds."""
    return float(min(_FIRST_DELAY_S * 2 ** min(attempts, 16), _LONGEST_DELAY_S))


_LAST = 1 << 63
