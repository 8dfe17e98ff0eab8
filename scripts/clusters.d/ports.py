"""The TCP ports of this machine."""

import contextlib
from pathlib import Path


def listening_ports() -> set[int]:
    """Return the TCP ports on which somebody listens."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    return ports
