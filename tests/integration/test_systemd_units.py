"""The shipped units under a real systemd of their own, with a probe in the daemons' place."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ("sbridge-agent", "sbridge-agent@n1", "sbridge-watcher")
WATCHDOG_S = 2
WAIT_S = 30.0
SYSTEMD = Path("/lib/systemd/systemd")

PROBE = """\
#!/usr/bin/python3 -I
import os, sys, time
sys.path.insert(0, {root!r})
from bridge import command
from bridge.notify import notify, watchdog_interval_s

folder, unit = {folder!r}, sys.argv[1]
log = open(f"{{folder}}/{{unit}}.log", "a", buffering=1)
print("started", os.getpid(), watchdog_interval_s(), file=log)
print("arguments", *sys.argv[2:], file=log)

def may(name, act):
    try:
        print("may", name, act() or "", file=log)
    except Exception as error:
        print("may-not", name, error, file=log)

def become_user():
    pid = os.fork()
    if pid == 0:
        os.setgroups([12345]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
        os._exit(0)
    return os.waitpid(pid, 0)[1] and 1 / 0

def inotify():
    from ctypes import CDLL
    assert CDLL(None).inotify_init1(0) >= 0

for place in ("/etc", "/usr", "/run/sbridge", "/var/log/sbridge", "/var/lib/sbridge", "/mnt"):
    may("write " + place, lambda: os.unlink(os.open(f"{{place}}/.probe", os.O_CREAT) and f"{{place}}/.probe"))
may("become-user", become_user)
may("inotify", inotify)
may("command", lambda: command.run(["/bin/cat"], timeout_s=5, stdin=b"text").stdout)
may("mount", lambda: command.run(["/bin/mount", "-t", "tmpfs", "none", "/mnt"], timeout_s=5) and None)
child = os.spawnv(os.P_NOWAIT, "/bin/sleep", ["sleep", "600"])
print("child", child, file=log)
notify("READY=1")
while True:
    time.sleep({watchdog} / 4)
    if os.path.exists(f"{{folder}}/hang"):
        print("hanging", file=log)
        time.sleep(600)
    if not os.path.exists(f"/proc/{{child}}"):
        print("child died", file=log)
    notify("WATCHDOG=1")
"""  # noqa: E501

BOOT = """\
set -e
mount -t proc proc /proc
# systemd remounts this one read-only, and that would be the whole machine's.
umount -R /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for place in /run /tmp /var/log /var/lib /var/tmp; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/systemd/system /run/lock
cp -r {folder}/units/. /run/systemd/system
exec {systemd} --system --unit=probe.target --log-target=console --show-status=0
"""


def unit_text(name: str, folder: Path) -> str:
    """Return the shipped unit with the probe in it and a short watchdog time."""
    text = (ROOT / f"systemd/{name}.service").read_text(encoding="utf-8")
    start = f"ExecStart={folder}/probe %p%i"
    text = re.sub(r"^ExecStart=\S+ --config \S+", start, text, flags=re.MULTILINE)
    return re.sub(r"^WatchdogSec=.*", f"WatchdogSec={WATCHDOG_S}", text, flags=re.MULTILINE)


class Machine:
    """A systemd in namespaces of its own; `lines` is what a unit's probe has logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        units = folder / "units"
        for unit in UNITS:
            name = unit.replace("@n1", "@")
            (units / f"{name}.service.d").mkdir(parents=True)
            (units / f"{name}.service").write_text(unit_text(name, folder), encoding="utf-8")
            (units / f"{name}.service.d/alone.conf").write_text(
                "[Unit]\nDefaultDependencies=no\nWants=\nAfter=\n"
            )
        wants = " ".join(f"{name}.service" for name in UNITS)
        (units / "probe.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")
        # A copy: the units hide /home and /tmp, where a checkout may be.
        for package in ("bridge", "validator"):
            shutil.copytree(ROOT / package, folder / package)
        probe = PROBE.format(root=str(folder), folder=str(folder), watchdog=WATCHDOG_S)
        (folder / "probe").write_text(probe, encoding="utf-8")
        (folder / "probe").chmod(0o755)
        self._console = (folder / "console").open("wb")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--uts",
             "--propagation", "private", "/bin/sh", "-c",
             BOOT.format(folder=folder, systemd=SYSTEMD)],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "container": "test"},
        )  # fmt: skip

    def lines(self, unit: str) -> list[str]:
        path = self.folder / f"{unit.replace('@', '')}.log"
        return path.read_text().splitlines() if path.exists() else []

    def count(self, unit: str, word: str) -> int:
        return sum(line.startswith(word) for line in self.lines(unit))

    def wait(self, what: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + WAIT_S
        while not what():
            if time.monotonic() > deadline or self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def console(self) -> str:
        return (self.folder / "console").read_text(errors="replace")

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._console.close()


def systemds_cgroups() -> set[str]:
    """Return what systemd makes at the top of each hierarchy, as far as it is there."""
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    names = ("system.slice", "init.scope", "user.slice")
    return {f"{top}/{name}" for top in tops for name in names if (top / name).is_dir()}


def remove_cgroups(roots: set[str]) -> None:
    """Remove them once the kernel has buried the processes that were in them."""
    deadline = time.monotonic() + WAIT_S
    while any(map(os.path.exists, roots)) and time.monotonic() < deadline:
        for root in roots:
            for folder, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed")
    if os.path.exists("/run/systemd/system"):
        pytest.skip("a systemd runs this machine; a second one would take its cgroups for its own")
    before = systemds_cgroups()
    folder = Path(tempfile.mkdtemp(prefix="sbridge-units-", dir="/srv"))  # PrivateTmp hides /tmp
    folder.chmod(0o755)
    made = Machine(folder)
    try:
        if not made.wait(lambda: all(made.count(unit, "child") for unit in UNITS)):
            pytest.skip(f"no systemd can be run inside this machine:\n{made.console()[-2000:]}")
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)
        remove_cgroups(systemds_cgroups() - before)


def may(machine: Machine, unit: str) -> dict[str, bool]:
    """Return what the probe could do."""
    return {
        name: f"may {name}" in " ".join(machine.lines(unit))
        for name in (
            "write /etc", "write /usr", "write /run/sbridge", "write /var/log/sbridge",
            "write /var/lib/sbridge", "write /mnt", "become-user", "inotify", "command text",
            "mount",
        )
    }  # fmt: skip


def test_the_watcher_can_do_its_work_and_little_else(machine: Machine) -> None:
    assert may(machine, "sbridge-watcher") == {
        "write /etc": False,
        "write /usr": False,
        "write /run/sbridge": True,
        "write /var/log/sbridge": True,
        "write /var/lib/sbridge": True,
        "write /mnt": True,
        "become-user": True,
        "inotify": True,
        "command text": True,
        "mount": False,
    }, machine.lines("sbridge-watcher")


def test_the_agent_gets_the_nodes_name_where_its_unit_names_one(machine: Machine) -> None:
    assert "arguments --node=" in machine.lines("sbridge-agent")
    assert "arguments --node=n1" in machine.lines("sbridge-agent@n1")


def test_the_agent_can_make_sandboxes(machine: Machine) -> None:
    able = may(machine, "sbridge-agent")
    assert able["mount"], machine.lines("sbridge-agent")
    assert able["become-user"]
    assert able["write /run/sbridge"]
    assert able["write /var/log/sbridge"]


def test_a_daemon_that_hangs_is_started_again_and_the_agents_keepers_live_on(
    machine: Machine,
) -> None:
    (machine.folder / "hang").touch()
    for unit in UNITS:
        assert machine.wait(lambda unit=unit: machine.count(unit, "hanging") > 0)
    (machine.folder / "hang").unlink()
    for unit in UNITS:
        assert machine.wait(lambda unit=unit: machine.count(unit, "started") > 1), machine.console()
    keeper = int(
        next(x for x in machine.lines("sbridge-agent") if x.startswith("child")).split()[1]
    )
    assert any(
        f"NSpid:\t{entry.name}\t{keeper}\n" in status
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (status := status_of(entry))
    )


def status_of(process: Path) -> str:
    try:
        return (process / "status").read_text()
    except OSError:
        return ""
