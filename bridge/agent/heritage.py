"""What a child of sbridge-run would have inherited from it, for the process that takes its place.

The agent reads it and tells the keeper: a process that was just forked copies every page that it
touches for the first time, so the same few files cost it ten times as much.
"""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bridge import kernel, wire
from bridge.agent.rarities import Rarities

# It ignores this one itself, and tells whether that was so before.
_IGNORED_BY_RUN = {int(signal.SIGPIPE)}


@dataclass(frozen=True)
class Heritage:
    """Who sbridge-run is, its limits (RLIMIT_… → soft, hard), nice value, CPUs and the rest."""

    owner: kernel.Identity
    limits: dict[int, tuple[int, int]]
    nice: int
    cpus: frozenset[int]
    rarities: Rarities

    @classmethod
    def of(cls, pid: int, process: int, ignored: Iterable[bytes] = ()) -> "Heritage":
        """Read it of the process `pid`, whose /proc folder is `process`; OSError: it has ended.

        `ignored`: the numbers of signals that were ignored before sbridge-run ignored them.
        """
        owner = kernel.identity(process)
        told = {int(number) for number in ignored if number.isdigit()} & _IGNORED_BY_RUN
        return cls(
            replace(owner, ignored=owner.ignored - _IGNORED_BY_RUN | told),
            kernel.limits(process),
            kernel.nice(process),
            frozenset(os.sched_getaffinity(pid)),
            Rarities.of(pid, process),
        )

    def orders(self) -> wire.Fields:
        """Return what the keeper is told of it."""
        orders: wire.Fields = [
            ("uids", _written(self.owner.uids)),
            ("gids", _written(self.owner.gids)),
            ("groups", _written(self.owner.groups)),
            ("umask", b"%d" % self.owner.umask),
            ("ignored", _written(self.owner.ignored)),
            ("blocked", _written(self.owner.blocked)),
            ("nice", b"%d" % self.nice),
            ("cpus", _written(self.cpus)),
        ]
        orders += [("limit", _written((kind, *both))) for kind, both in self.limits.items()]
        return orders + self.rarities.orders()

    @classmethod
    def told(cls, message: wire.Message) -> "Heritage":
        """Return what `orders` made."""
        owner = kernel.Identity(
            _numbers(message.first("uids")),
            _numbers(message.first("gids")),
            _numbers(message.first("groups")),
            int(message.first("umask")),
            frozenset(_numbers(message.first("ignored"))),
            frozenset(_numbers(message.first("blocked"))),
        )
        limits = {}
        for words in message.every("limit"):
            kind, soft, hard = _numbers(words)
            limits[kind] = soft, hard
        cpus = frozenset(_numbers(message.first("cpus")))
        return cls(owner, limits, int(message.first("nice")), cpus, Rarities.told(message))


def _written(numbers: Iterable[int]) -> bytes:
    return b" ".join([b"%d" % number for number in numbers])


def _numbers(words: bytes) -> tuple[int, ...]:
    return tuple(map(int, words.split()))
