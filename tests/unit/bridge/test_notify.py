import socket
from pathlib import Path

import pytest

from bridge import notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_state_reaches_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    address = f"@sbridge-test-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if is_abstract else address)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.notify("READY=1\nSTATUS=준비됨")
        assert systemd.recv(100).decode() == "READY=1\nSTATUS=준비됨"


def test_outside_of_a_unit_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.notify("READY=1")


def test_a_systemd_that_is_gone_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.notify("WATCHDOG=1")


@pytest.mark.parametrize(("period_us", "half_s"), [("30000000", 15.0), ("", None), (None, None)])
def test_the_watchdog_is_fed_twice_per_period(
    monkeypatch: pytest.MonkeyPatch, period_us: str | None, half_s: float | None
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if period_us is not None:
        monkeypatch.setenv("WATCHDOG_USEC", period_us)
    assert notify.watchdog_interval_s() == half_s
