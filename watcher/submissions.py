"""Begin the children that take, submit and put away job files, and note what became of them."""

import os
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from bridge import as_user
from bridge.errors import SbridgeError, TemporaryError
from bridge.slurm.lookup import FoundJob
from watcher import names
from watcher.board import Claim, Drop, Phase
from watcher.condition import Condition
from watcher.errands import Errand, Outcome
from watcher.places import Places
from watcher.slurm_gate import SlurmGate
from watcher.workplace import Workplace


class Submissions:
    """Children for all owners in turns, the oldest files of each first.

    Each owner has a gate of his own: what he does to his sbatch looks like a Slurm that is away.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._slurm = Condition(place.log, "slurm_unreachable", "slurm_reachable")
        self._gates: dict[int, SlurmGate] = defaultdict(SlurmGate)
        self._submitting: Counter[int] = Counter()
        self.under_way = 0

    def begin(self, now: float) -> None:
        """Begin what is due, as far as there is room."""
        places = self._places()
        for claim in self._place.board.ready_claims(Phase.ACCEPTED, now):
            if places.has_room(claim.uid):
                places.take(claim.uid)
                self._complete(claim)
        for claim in self._place.board.ready_claims(Phase.WAITING, now):
            if places.has_room(claim.uid) and self._may_submit(claim.uid, now):
                places.take(claim.uid)
                self._resume(claim, now)
        for drop in _in_turns(self._place.board.ready_drops(now), places):
            may_submit = self._may_submit(drop.uid, now)
            if places.has_room(drop.uid) and (may_submit or not drop.is_known_good):
                closed_to = places.closed_to(drop.uid)
                places.take(drop.uid)
                self._take(drop, may_submit, now, closed_to)

    def next_try(self) -> float | None:
        """Return when Slurm is to be tried again, None when nothing waits for it."""
        places = self._places()
        times = [
            self._gates[uid].retry_at
            for uid in self._place.board.waiting_for_slurm()
            if not self._gates[uid].is_open and not self._submitting[uid] and places.has_room(uid)
        ]
        return min(times, default=None)

    def _places(self) -> Places:
        children = self._place.children
        most = self._place.config.watcher.parallel_submissions
        return Places(most, children.by_owner(), children.stuck)

    def _may_submit(self, owner: int, now: float) -> bool:
        return self._gates[owner].lets_through(now, self._submitting[owner])

    def _take(self, drop: Drop, may_submit: bool, now: float, closed_to: Sequence[int]) -> None:
        tag = secrets.token_hex(16)
        claim = self._place.board.begin_claim(tag, names.claimed(tag, drop.name), now)
        claim.uid = drop.uid
        claim.order_ns, claim.noticed, claim.since = drop.order_ns, drop.noticed, time.time()
        name, is_settled = drop.name, drop.is_settled
        drop.is_under_way = True
        drop.came_again = False
        self._begin(
            claim,
            lambda errand: errand.take(name, tag, may_submit=may_submit, is_settled=is_settled),
            lambda outcome, trouble: self._taken(drop, claim, outcome, trouble),
            submits=may_submit,
            closed_to=closed_to,
        )

    def _resume(self, claim: Claim, now: float) -> None:
        if not self._place.is_free(claim, now):
            return
        self._begin(
            claim,
            lambda errand: errand.resume(claim.entry),
            lambda outcome, trouble: self._ended(claim, outcome, trouble),
            submits=True,
        )

    def _complete(self, claim: Claim) -> None:
        job = claim.job or FoundJob(0, None)
        self._begin(
            claim,
            lambda errand: errand.complete(claim.entry, job),
            lambda outcome, trouble: self._ended(claim, outcome, trouble),
            submits=False,
        )

    def _begin(
        self,
        claim: Claim,
        work: Callable[[Errand], Outcome],
        done: Callable[[Outcome | None, SbridgeError | None], None],
        *,
        submits: bool,
        closed_to: Sequence[int] = (),
    ) -> None:
        """Fork the child; it and its sbatch hold the tag's lock, this process does not."""
        claim.is_under_way = True
        self.under_way += 1
        owner = claim.uid
        self._submitting[owner] += submits

        def ended(value: Any, trouble: SbridgeError | None) -> None:
            claim.is_under_way = False
            self.under_way -= 1
            self._submitting[owner] -= submits
            done(Outcome(**value) if value else None, trouble)

        try:
            lock = self._place.state.lock(claim.tag)
        except OSError as error:
            ended(None, TemporaryError(f"watcher.state_dir: {as_user.describe(error)}"))
            return
        settings = self._place.config.watcher
        self._place.children.begin(
            lambda: work(Errand(self._place.config, lock, closed_to)).as_json(),
            ended,
            timeout_s=2 * settings.nas_timeout_s + settings.sbatch_timeout_s,
            ends_with_parent=False,
            owner=owner,
        )
        if lock is not None:
            os.close(lock)

    def _taken(
        self, drop: Drop, claim: Claim, outcome: Outcome | None, trouble: SbridgeError | None
    ) -> None:
        """Note the end of a take; unless the file was claimed, it is still a drop."""
        now = time.monotonic()
        drop.is_under_way = False
        if outcome is None:
            # Whether it was claimed is not known: the next scan sees it here or there.
            self._place.board.drop_claim(claim.tag)
            self._put_off(drop, str(trouble), now, name=drop.name, tag=claim.tag)
        elif outcome.claimed:
            self._place.board.forget_drop(drop.name, now)
            self._place.log.info(
                "job_file_claimed", name=names.shown(drop.name), tag=claim.tag, owner=outcome.owner
            )
            self._ended(claim, outcome, None)
        else:
            self._place.board.drop_claim(claim.tag)
            self._place.state.forget(claim.tag)
            self._not_claimed(drop, claim, outcome, now)

    def _not_claimed(self, drop: Drop, claim: Claim, outcome: Outcome, now: float) -> None:
        if not drop.came_again:
            drop.uid = outcome.uid
        if outcome.kind == "deferred":
            return
        if outcome.kind == "hindered":
            self._put_off(drop, outcome.reason, now, name=drop.name, owner=outcome.owner)
        elif outcome.kind == "unsettled":
            drop.is_ready = drop.came_again
        elif outcome.kind == "valid":
            drop.is_known_good = not drop.came_again
        else:
            self._place.board.forget_drop(drop.name, now)
            if outcome.kind == "refused":
                self._log_end("job_file_refused", claim, outcome, name=drop.name)

    def _ended(self, claim: Claim, outcome: Outcome | None, trouble: SbridgeError | None) -> None:
        """Note what became of a claimed file."""
        now = time.monotonic()
        facts: dict[str, Any] = {"name": claim.name, "tag": claim.tag}
        if outcome is None:
            if claim.phase is not Phase.ACCEPTED:
                claim.phase = Phase.DOUBTFUL
            self._put_off(claim, str(trouble), now, **facts)
            return
        self._note_slurm({claim.uid, outcome.uid}, outcome, now)
        claim.uid = outcome.uid
        if outcome.kind in {"gone", "submitted", "refused"}:
            self._place.board.forget_claim(claim.tag)
            self._place.state.forget(claim.tag)
            self._log_end(_EVENTS[outcome.kind], claim, outcome, name=claim.name)
        elif outcome.kind == "not_reached":
            claim.phase = Phase.WAITING
        elif outcome.kind == "doubtful":
            claim.phase = Phase.DOUBTFUL
            self._place.log.warning("submission_doubtful", reason=outcome.reason, **facts)
        else:
            self._hindered(claim, outcome, now, facts)

    def _hindered(self, claim: Claim, outcome: Outcome, now: float, facts: dict[str, Any]) -> None:
        if outcome.kind == "accepted":
            claim.phase = Phase.ACCEPTED
            claim.job = FoundJob(outcome.job_id, _whole(outcome.submitted))
        elif claim.phase is not Phase.ACCEPTED:
            claim.phase = Phase.WAITING
        job = {"job_id": claim.job.job_id} if claim.job else {}
        self._put_off(claim, outcome.reason, now, owner=outcome.owner, **job, **facts)

    def _put_off(self, what: Drop | Claim, reason: str, now: float, **facts: Any) -> None:
        if what.put_off(now, reason):
            facts["name"] = names.shown(facts["name"])
            self._place.log.warning("job_file_put_off", reason=reason, **facts)

    def _note_slurm(self, owners: set[int], outcome: Outcome, now: float) -> None:
        if outcome.kind in {"not_reached", "doubtful"}:
            for owner in owners:
                self._gates[owner].failed(now)
            self._slurm.failed(outcome.reason)
        elif outcome.job_id or "sbatch_refused" in outcome.codes:
            self._gates.clear()
            self._slurm.worked()

    def _log_end(self, event: str, claim: Claim, outcome: Outcome, *, name: str) -> None:
        facts: dict[str, Any] = {"name": names.shown(name), "tag": claim.tag}
        facts |= {"owner": outcome.owner, "filed_as": names.shown(outcome.filed_as)}
        if outcome.job_id:
            facts["job_id"] = outcome.job_id
        if outcome.codes:
            facts["findings"] = outcome.codes
        duration_s = round(time.monotonic() - claim.noticed, 3)
        self._place.log.info(event, outcome=outcome.kind, duration_s=duration_s, **facts)


_EVENTS = {
    "gone": "job_file_taken_back",
    "submitted": "job_submitted",
    "refused": "job_file_refused",
}


def _in_turns(drops: Sequence[Drop], places: Places) -> list[Drop]:
    """Return the drops so that owners take turns, whoever has the fewest children first."""
    waiting: Counter[int] = Counter()
    turns: dict[str, int] = {}
    for drop in drops:
        turns[drop.name] = places.turn(drop.uid, waiting[drop.uid])
        waiting[drop.uid] += 1
    return sorted(drops, key=lambda drop: turns[drop.name])


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
