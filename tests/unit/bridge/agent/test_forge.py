"""The forge and its agent as processes: the test's child splits into both."""

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge import wire
from bridge.agent import forge

PATIENCE_S = 20.0


def write(message, descriptors):
    """Say to the first descriptor what the message tells."""
    os.write(descriptors[0], message.first("text"))


def look(_message, descriptors):
    """Say what a child of the forge has open, which signals it ignores, and whom it leads."""
    opened = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    wakeup = signal.set_wakeup_fd(-1)
    kinds = {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)}
    is_plain = wakeup == -1 and kinds == {signal.SIG_DFL}
    leads = os.getsid(0) == os.getpid()
    inherited = [number for number in opened if _is_of_the_test(number)]
    os.write(descriptors[0], f"{is_plain} {leads} {inherited}".encode())


def _is_of_the_test(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}").endswith("/of-the-test")
    except OSError:
        return False


def fail(_message, _descriptors):
    raise KeyError("a bug in a handler")


def stay(_message, descriptors):
    """Say one's pid, and live until the descriptor has no reader."""
    os.write(descriptors[0], b"%d\n" % os.getpid())
    poll = select.poll()
    poll.register(descriptors[0], 0)
    poll.poll()


HANDLERS = {"write": write, "look": look, "fail": fail, "stay": stay}


class Forged:
    """A forge (`pid`), whose agent runs a function, and what both say on stderr."""

    def __init__(self, folder, agent):
        self.said = folder / "stderr"
        with (folder / "of-the-test").open("w"), self.said.open("wb") as said:
            self.pid = os.fork()
            if self.pid == 0:
                _split(agent, said.fileno())
        self.is_alive = True

    def wait(self):
        """Return the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, "it never ended"
            time.sleep(0.005)
        self.is_alive = False
        return os.waitstatus_to_exitcode(ended[1])

    def close(self):
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _split(agent, stderr):
    code = 99
    try:
        os.dup2(stderr, 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - the tests' own is a file
        smithy = forge.start(HANDLERS)
        signal.alarm(60)  # whatever becomes of the forge, no agent of a test stays
        code = agent(smithy) or 0
    except BaseException:  # noqa: BLE001 - two processes come here, and none may go on
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


@pytest.fixture
def forged(tmp_path):
    made = []

    def forged(agent):
        made.append(Forged(tmp_path, agent))
        return made[-1]

    yield forged
    for one in made:
        one.close()


@pytest.fixture
def pipe():
    reader, writer = os.pipe2(os.O_CLOEXEC)
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def read(reader):
    """Return what comes next."""
    assert select.select([reader], [], [], PATIENCE_S)[0], "nothing came"
    return os.read(reader, 4096)


def is_there(pid):
    return Path(f"/proc/{pid}").exists()


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def told(text):
    return wire.Message("write", [("text", text)])


def test_each_message_becomes_a_child_that_has_its_descriptors(forged, pipe):
    reader, writer = pipe

    def agent(smithy):
        for number in range(3):
            smithy.send(told(b"%d\n" % number), [writer])
        signal.pause()

    forged(agent)
    seen = b""
    while seen.count(b"\n") < 3:
        seen += read(reader)
    assert sorted(seen.split()) == [b"0", b"1", b"2"]


def test_a_child_has_nothing_that_the_agent_was_started_with(forged, pipe):
    reader, writer = pipe

    def agent(smithy):
        smithy.send(wire.Message("look"), [writer])
        signal.pause()

    forged(agent)
    assert read(reader) == b"True True []"


@pytest.mark.parametrize("code", [0, 7])
def test_it_ends_with_the_agent_and_its_exit_code(forged, pipe, code):
    reader, writer = pipe

    def agent(smithy):
        smithy.send(told(b"it serves"), [writer])
        select.select([reader], [], [])
        return code

    assert forged(agent).wait() == code


def test_it_ends_with_an_agent_that_dies_at_once(forged):
    """Before the forge hears of children's ends."""
    assert forged(lambda _: 7).wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_its_signals_are_the_agents(forged, pipe, number):
    reader, writer = pipe

    def agent(smithy):
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda got, _: os._exit(40 + got))
        smithy.send(told(b"it serves"), [writer])
        while True:
            signal.pause()

    made = forged(agent)
    read(reader)
    os.kill(made.pid, number)
    assert made.wait() == 40 + number


def test_an_agent_that_a_signal_kills_is_told_as_shells_do(forged):
    assert forged(lambda _: os.kill(os.getpid(), signal.SIGKILL)).wait() == 128 + signal.SIGKILL


def test_an_agent_does_not_outlive_its_forge(forged, pipe):
    reader, writer = pipe

    def agent(_smithy):
        os.write(writer, b"%d" % os.getpid())
        while True:
            signal.pause()

    made = forged(agent)
    pid = int(read(reader))
    os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)
    made.is_alive = False
    until(lambda: not is_there(pid) or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_its_children_outlive_the_agent(forged, pipe):
    reader, writer = pipe

    def agent(smithy):
        smithy.send(wire.Message("stay"), [writer])
        signal.pause()

    made = forged(agent)
    pid = int(read(reader))
    os.kill(made.pid, signal.SIGTERM)
    made.wait()
    assert is_there(pid)
    os.close(reader)
    until(lambda: not is_there(pid))


def test_what_goes_wrong_in_a_child_is_that_ones_end(forged, pipe):
    reader, writer = pipe

    def agent(smithy):
        smithy.send(wire.Message("fail"), [])
        smithy.send(told(b"went on"), [writer])
        signal.pause()

    made = forged(agent)
    assert read(reader) == b"went on"
    until(lambda: "a bug in a handler" in made.said.read_text())


def test_a_node_that_can_fork_no_more_loses_that_message_only(forged, pipe, monkeypatch):
    reader, writer = pipe
    fork = forge._Serving._fork

    def refuse_once(self, handler, payload, descriptors):
        if handler is stay:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        fork(self, handler, payload, descriptors)

    monkeypatch.setattr(forge._Serving, "_fork", refuse_once)

    def agent(smithy):
        smithy.send(wire.Message("stay"), [writer])
        smithy.send(told(b"went on"), [writer])
        signal.pause()

    made = forged(agent)
    assert read(reader) == b"went on"
    assert "cannot fork for stay: [Errno 11]" in made.said.read_text()


def test_what_the_agents_commands_leave_behind_is_collected(forged, pipe):
    """A dead process that nobody collects keeps its cgroup, and so its sandbox."""
    reader, writer = pipe

    def agent(smithy):
        smithy.send(told(b"it serves"), [writer])
        select.select([reader], [], [])
        orphan = subprocess.run(
            ["/bin/sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
        )
        os.write(pids, orphan.stdout)
        signal.pause()

    told_pids, pids = os.pipe2(os.O_CLOEXEC)
    made = forged(agent)
    orphan = int(read(told_pids))
    assert f"\nPPid:\t{made.pid}\n" in Path(f"/proc/{orphan}/status").read_text()
    os.kill(orphan, signal.SIGKILL)
    until(lambda: not is_there(orphan))
    os.close(told_pids)
    os.close(pids)


def test_systemd_hears_the_forge_which_is_its_main_process(forged, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.settimeout(PATIENCE_S)

        def agent(smithy):
            smithy.notify("READY=1")
            signal.pause()

        made = forged(agent)
        state, ancillary, _, _ = manager.recvmsg(64, socket.CMSG_SPACE(12))
    assert state == b"READY=1"
    assert int.from_bytes(ancillary[0][2][:4], sys.byteorder) == made.pid
