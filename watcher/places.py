"""Whose job files may be worked on now: a share for everybody, and always one place.

A child belongs to the owner of its job file, and he can stop it. So nobody gets more than half
of the places, and who has no child may always have one, whatever the others do. A child whose
owner is not known yet may become anybody's and counts as everybody's.
"""

from collections import Counter

UNKNOWN = -1


class Places:
    """The places that are left; `taken` is how many children each owner has.

    `stuck` of them hang in the kernel: they count against their owner only.
    """

    def __init__(self, most: int, taken: Counter[int], stuck: int) -> None:
        self._most = most
        self._share = max(1, most // 2)
        self._taken = taken
        self._total = taken.total() - stuck

    def has_room(self, owner: int) -> bool:
        """Whether a child may begin on a file of this owner's."""
        taken = self._taken[owner]
        return taken == 0 or (taken < self._share and self._total < self._most)

    def take(self, owner: int) -> None:
        """Note that a child begins."""
        self._taken[owner] += 1
        self._total += 1

    def closed_to(self, expected: int) -> list[int]:
        """Return for whom a child must not work that finds another owner than expected."""
        unknown = self._taken[UNKNOWN]
        share = self._share if self._total < self._most else 1
        users = [owner for owner in self._taken if owner not in (UNKNOWN, expected)]
        return [owner for owner in users if self._taken[owner] + unknown >= share]

    def turn(self, owner: int, waiting: int) -> int:
        """Return the turn of an owner's file behind `waiting` others of his; 0 is first."""
        return self._taken[owner] + waiting
