"""When to try Slurm again after it was not reached: one submission at a time, ever more rarely."""

_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0


class SlurmGate:
    """Open while Slurm answers; else lets one submission through now and then."""

    def __init__(self) -> None:
        self._failures = 0
        self.retry_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures == 0

    def failed(self, now: float) -> None:
        """Note that Slurm was not reached."""
        self.retry_at = now + min(_FIRST_DELAY_S * 2**self._failures, _LONGEST_DELAY_S)
        self._failures = min(self._failures + 1, 16)

    def lets_through(self, now: float, under_way: int) -> bool:
        """Whether a submission may begin while `under_way` others are."""
        return self.is_open or (under_way == 0 and now >= self.retry_at)
