"""Settle what nobody knows: ask Slurm for the tags of doubtful submissions."""

import time
from collections import defaultdict

from bridge.errors import SbridgeError
from bridge.slurm.lookup import FoundJob, SubmissionLookup
from watcher.board import Claim, Phase, delay_s
from watcher.condition import Condition
from watcher.workplace import Workplace

_QUESTIONS_PER_USER = 4


class Doubts:
    """Asks for all doubtful submissions at once, one question at a time."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._answers = Condition(place.log, "slurm_lookup_failed", "slurm_lookup_answered")
        self._failures = 0
        self._not_before = 0.0
        self._is_asking = False

    def begin(self, now: float) -> None:
        """Begin to ask, if there is a doubt and nobody works on it any more."""
        if self._is_asking or now < self._not_before:
            return
        doubtful = self._place.board.ready_claims(Phase.DOUBTFUL, now)
        asked = [claim for claim in doubtful if self._place.is_free(claim, now)]
        if asked:
            self._ask(asked)

    def next_question(self) -> float | None:
        """Return when to ask again after Slurm could not be asked, None without a doubt."""
        if self._is_asking or not self._failures or not self._place.board.has_doubts():
            return None
        return self._not_before

    def _ask(self, claims: list[Claim]) -> None:
        questions: dict[int, list[Claim]] = defaultdict(list)
        for claim in claims:
            claim.is_under_way = True
            questions[claim.uid].append(claim)
        lookup = SubmissionLookup(self._place.config.slurm)

        def ask() -> dict[str, tuple[int, int | None]]:
            found: dict[str, FoundJob] = {}
            for uid, asked in questions.items():
                since = min(claim.since for claim in asked)
                found |= lookup.find(uid, [claim.tag for claim in asked], since)
            return {tag: (job.job_id, job.submitted) for tag, job in found.items()}

        self._is_asking = True
        self._place.children.begin(
            ask,
            lambda found, trouble: self._answered(claims, found, trouble),
            timeout_s=_QUESTIONS_PER_USER * self._place.config.slurm.timeout_s * len(questions),
            ends_with_parent=True,
        )

    def _answered(
        self,
        claims: list[Claim],
        found: dict[str, tuple[int, int | None]],
        trouble: SbridgeError | None,
    ) -> None:
        now = time.monotonic()
        self._is_asking = False
        for claim in claims:
            claim.is_under_way = False
        if trouble:
            self._answers.failed(str(trouble))
            self._not_before = now + delay_s(self._failures)
            self._failures += 1
            return
        self._answers.worked()
        self._failures = 0
        for claim in claims:
            if claim.tag in found:
                self._found(claim, FoundJob(*found[claim.tag]))
            else:
                self._denied(claim, now)

    def _found(self, claim: Claim, job: FoundJob) -> None:
        claim.phase = Phase.ACCEPTED
        claim.job = job
        claim.not_before = 0.0
        self._place.log.info("submission_found", tag=claim.tag, name=claim.name, job_id=job.job_id)

    def _denied(self, claim: Claim, now: float) -> None:
        """Believe Slurm's no once it has lasted: a request may still wait in its queue."""
        settle_s = self._place.config.watcher.doubt_settle_s
        if claim.denied_since is None:
            claim.denied_since = now
        if now - claim.denied_since < settle_s:
            claim.not_before = claim.denied_since + settle_s
            return
        claim.phase = Phase.WAITING
        claim.denied_since = None
        claim.not_before = 0.0
        self._place.log.info(
            "submission_not_found", tag=claim.tag, name=claim.name, settled_s=settle_s
        )
