"""Whether a folder's disk takes what is written to it."""

import os
import tempfile
from pathlib import Path

from bridge.errors import NodeError

# Less is soon full again, and each time a job would be requeued.
_LEAST_ROOM_MIB = 64


def check(folder: Path) -> None:
    """Raise `NodeError` unless files can be written in `folder` and there is some room left."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        disk = os.statvfs(folder)
    except OSError as error:
        raise NodeError(f"{folder} cannot be written: {error.strerror}") from error
    room_mib = disk.f_bavail * disk.f_frsize >> 20
    if room_mib < _LEAST_ROOM_MIB:
        raise NodeError(f"{folder} has room for {room_mib} MiB only, not {_LEAST_ROOM_MIB}")
