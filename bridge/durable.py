"""Write a file so that a reader sees the old text or the new one, never a half."""

import os
from pathlib import Path


def write_atomically(
    path: Path, content: bytes, *, mode: int = 0o600, survives_power_loss: bool = True
) -> None:
    """Replace the file at `path` by `content`, safe against the death of any process.

    With `survives_power_loss` also against the machine's, which takes as long as the disk is
    busy: tens of milliseconds at rest, seconds behind somebody's gigabytes.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if survives_power_loss:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if survives_power_loss:
        sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file that was written before survive the loss of power, with its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames, creations and removals inside directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
