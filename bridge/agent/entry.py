"""One step that enters a sandbox, as the agent hands it to the keeper."""

import socket
from dataclasses import dataclass
from functools import cached_property

from bridge import kernel, wire


@dataclass(frozen=True)
class Entry:
    """One step that enters: what the agent decided (`message`) and the descriptors it passes.

    `connection` to sbridge-run, `caller` and `init` the /proc folders of sbridge-run and of
    the sandbox's first process, `script` the batch script or None, `step` the step's own
    open files as (number there, descriptor here).
    """

    message: wire.Message
    connection: socket.socket
    caller: int
    init: int
    script: int | None
    step: list[tuple[int, int]]

    @cached_property
    def owner(self) -> kernel.Identity:
        """Who sbridge-run is; raises OSError when it has ended."""
        return kernel.identity(self.caller)

    @classmethod
    def of(cls, message: wire.Message, descriptors: list[int]) -> "Entry":
        """Take the descriptors apart, in the order in which the agent sends them."""
        rest = list(descriptors)
        connection = socket.socket(fileno=rest.pop(0))
        connection.setblocking(True)  # the agent had a time limit on it, and that is shared
        caller, init = rest.pop(0), rest.pop(0)
        numbers = [int(number) for number in message.every("fd")]
        step = list(zip(numbers, rest, strict=False))
        script = rest[len(numbers)] if len(rest) > len(numbers) else None
        return cls(message, connection, caller, init, script, step)
