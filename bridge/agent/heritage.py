"""What a child of sbridge-run would have inherited from it, for the process that takes its place.

The agent reads it and tells the keeper: a process that was just forked copies every page that it
touches for the first time, so the same few files cost it ten times as much.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from bridge import kernel, wire


@dataclass(frozen=True)
class Heritage:
    """Who sbridge-run is, its resource limits (RLIMIT_… → soft, hard), nice value and CPUs."""

    owner: kernel.Identity
    limits: dict[int, tuple[int, int]]
    nice: int
    cpus: frozenset[int]

    @classmethod
    def of(cls, pid: int, process: int) -> "Heritage":
        """Read it of the process `pid`, whose /proc folder is `process`; OSError: it has ended."""
        return cls(
            kernel.identity(process),
            kernel.limits(process),
            kernel.nice(process),
            frozenset(os.sched_getaffinity(pid)),
        )

    def orders(self) -> wire.Fields:
        """Return what the keeper is told of it."""
        orders: wire.Fields = [
            ("uids", _written(self.owner.uids)),
            ("gids", _written(self.owner.gids)),
            ("groups", _written(self.owner.groups)),
            ("umask", b"%d" % self.owner.umask),
            ("ignored", _written(self.owner.ignored)),
            ("nice", b"%d" % self.nice),
            ("cpus", _written(self.cpus)),
        ]
        return orders + [("limit", _written((kind, *both))) for kind, both in self.limits.items()]

    @classmethod
    def told(cls, message: wire.Message) -> "Heritage":
        """Return what `orders` made."""
        owner = kernel.Identity(
            _numbers(message.first("uids")),
            _numbers(message.first("gids")),
            _numbers(message.first("groups")),
            int(message.first("umask")),
            frozenset(_numbers(message.first("ignored"))),
        )
        limits = {}
        for words in message.every("limit"):
            kind, soft, hard = _numbers(words)
            limits[kind] = soft, hard
        cpus = frozenset(_numbers(message.first("cpus")))
        return cls(owner, limits, int(message.first("nice")), cpus)


def _written(numbers: Iterable[int]) -> bytes:
    return b" ".join([b"%d" % number for number in numbers])


def _numbers(words: bytes) -> tuple[int, ...]:
    return tuple(map(int, words.split()))
