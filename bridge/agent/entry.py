"""One task of a step that enters a sandbox, as the agent hands it to the keeper."""

import os
import socket
import struct
from dataclasses import dataclass, field
from functools import cached_property

from bridge import kernel, wire
from bridge.agent.heritage import Heritage

_PIECES = struct.pack("ll", 1, 0)  # a timeval: between those of one message
_NAMESPACES = {
    b"ipc": kernel.CLONE_NEWIPC,
    b"uts": kernel.CLONE_NEWUTS,
    b"net": kernel.CLONE_NEWNET,
    b"pid": kernel.CLONE_NEWPID,
    b"mnt": kernel.CLONE_NEWNS,
}


@dataclass(frozen=True)
class Entry:
    """One task that enters: what the agent decided (`message`) and the descriptors it passes.

    `connection` to sbridge-run, `caller` and `init` the /proc folders of sbridge-run and of
    the sandbox's first process, `script` the batch script or None, `step` the step's own
    open files as (number there, descriptor here), `namespaces` those of the sandbox in the order
    of joining, as (descriptor, CLONE_NEW…), `cgroups` the lists of processes of the cgroups that
    the step belongs to and the keeper does not, `switches` what tells that sbridge-run gave up its
    CPU (bridge.agent.stop_watch), or None.
    """

    message: wire.Message
    connection: socket.socket
    caller: int
    init: int
    script: int | None
    step: list[tuple[int, int]]
    namespaces: list[tuple[int, int]] = field(default_factory=list)
    cgroups: list[int] = field(default_factory=list)
    switches: int | None = None

    @cached_property
    def heritage(self) -> Heritage:
        """What sbridge-run hands down."""
        return Heritage.told(self.message)

    def close_the_childs(self) -> None:
        """Close what the script's process alone needs, once it is forked."""
        wire.close_all([descriptor for descriptor, _ in self.namespaces])
        wire.close_all([descriptor for _, descriptor in self.step])
        self.namespaces.clear()
        self.step.clear()

    def take_place(self, pid: int) -> None:
        """Put a process, 0 for this one, where a child of sbridge-run would be."""
        for processes in self.cgroups:
            os.write(processes, b"%d" % pid)
        if pid:
            self.heritage.rarities.hand_on(pid)
        os.sched_setaffinity(pid, self.heritage.cpus)
        os.setpriority(os.PRIO_PROCESS, pid, self.heritage.nice)

    def close_cgroups(self) -> None:
        """Close the lists of processes, once all who belong there are in them."""
        wire.close_all(self.cgroups)

    def close(self) -> None:
        """Close whatever is open still."""
        self.close_the_childs()
        self.close_cgroups()
        optional = (self.script, self.switches)
        wire.close_all([self.caller, self.init, *(each for each in optional if each is not None)])
        self.connection.close()

    @classmethod
    def of(cls, message: wire.Message, descriptors: list[int]) -> "Entry":
        """Take the descriptors apart, in the order in which the agent sends them."""
        rest = list(descriptors)
        connection = socket.socket(fileno=rest.pop(0))
        connection.setblocking(True)  # the agent had a time limit on it, and that is shared
        # sbridge-run sends a message at once; who stops in the middle must hold nobody up.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PIECES)
        caller, init = rest.pop(0), rest.pop(0)
        namespaces = [(rest.pop(0), _NAMESPACES[name]) for name in message.every("namespace")]
        cgroups = [rest.pop(0) for _ in range(int(message.first("cgroups", b"0")))]
        switches = rest.pop(0) if message.first("switches") else None
        numbers = [int(number) for number in message.every("fd")]
        step = list(zip(numbers, rest, strict=False))
        script = rest[len(numbers)] if len(rest) > len(numbers) else None
        return cls(message, connection, caller, init, script, step, namespaces, cgroups, switches)
