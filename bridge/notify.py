"""Tell systemd that a daemon is ready, alive or stopping (sd_notify(3))."""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send `state` ("READY=1", "WATCHDOG=1", "STATUS=…") where systemd asked for it.

    Best effort, as sd_notify(3): does nothing outside a unit of Type=notify, and a lost
    notification is no reason for a daemon to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as datagram:
        datagram.connect(address)
        datagram.sendall(state.encode())


def watchdog_interval_s() -> float | None:
    """Return half of systemd's watchdog time in seconds, None when none is set."""
    period_us = os.environ.get("WATCHDOG_USEC")
    return int(period_us) / 2_000_000 if period_us else None
