"""What may be left of a cluster in the kernel, told by its state folder's name."""

from pathlib import Path

from commands import attempt


def mounts(state: Path) -> list[str]:
    """Return what is mounted below the state folder, latest first."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [row[4] for row in reversed(rows) if row[4].startswith(f"{state}/")]


def unmount_all(state: Path) -> int:
    """Unmount what is mounted below the state folder, and count it."""
    found = mounts(state)
    for path in found:
        attempt(["umount", path])
    return len(found)


def open_sockets(state: Path) -> list[str]:
    """Return the unix sockets below the state folder that somebody has open."""
    names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()]
    return sorted({name for name in names if name.startswith(f"{state}/")})
