"""A door in the tests' own pid namespace: a user's processes ask, the test is the keeper."""

import errno
import os
import select
import signal
import stat
import subprocess
import time
from types import SimpleNamespace

import pytest

from bridge import kernel, wire
from bridge.agent import door as door_module
from bridge.agent.door import Door

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can renounce for good")
ENDLESS = "echo begun; while :; do sleep 0.05; done"


class Inside:
    """What is inside: processes that ask and wait, and the door that they write to."""

    def __init__(self, folder, user):
        self._user = user
        self._processes = []
        self._output = folder / "output"
        self._output.touch()
        self._init = kernel.open_process(os.getpid())
        self.poll = select.poll()
        self.path = folder / "steps-7"
        fields = [("bin_dir", os.fsencode(folder)), ("runner", b"/sbridge-run"), ("job", b"7")]
        self.entry = SimpleNamespace(
            heritage=SimpleNamespace(owner=_identity_of(self.process().pid)),
            init=self._init,
            message=wire.Message("enter", fields),
        )
        self.door = Door(str(self.path), self.entry, self.poll)

    def process(self, *words, is_roots=False, ignores_pipe=False):
        """Start a process whose last words are these, and whose stdout and stderr are kept."""
        ids = {} if is_roots else {"user": self._user.uid, "group": self._user.gid}
        with self._output.open("a") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", "read x", "sh", *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                extra_groups=None if is_roots else [],
                restore_signals=not ignores_pipe,
                **ids,
            )
        self._processes.append(process)
        return process

    def write(self, line):
        with (self.path / "door").open("w") as writer:
            writer.write(line)
        self.serve()

    def serve(self, timeout_ms=0):
        self.door.serve(descriptor for descriptor, _ in self.poll.poll(timeout_ms))

    def run(self, asking, waiter, name="squeue", count=0):
        self.write(f"run {asking.pid} {waiter.pid} {count} {name}\n")

    def until(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.serve(20)
            self.door.collect()

    def told(self, asking):
        """Return how the command of a process ended, once that is told."""
        path = self.path / "ended" / str(asking.pid)
        self.until(path.exists)
        return path.read_text()

    def said(self):
        return self._output.read_text()

    def close(self):
        self.door.close()
        os.close(self._init)
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()


def _identity_of(pid):
    process = kernel.open_process(pid)
    try:
        return kernel.identity(process)
    finally:
        os.close(process)


@pytest.fixture
def inside(open_dir, ordinary):
    made = Inside(open_dir, ordinary)
    yield made
    made.close()


def is_alive(process):
    return process.poll() is None


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_command_is_the_nodes_own_with_what_the_asking_process_has(inside, command, ordinary):
    command("squeue", 'printf "<%s>" "$#" "$@"; id -u; echo trouble >&2; exit 3')
    asking, waiter = inside.process("not this", "a b", "", "c\n"), inside.process()
    inside.run(asking, waiter, count=3)
    assert inside.told(asking) == "exit 3\n"
    assert inside.said() == f"<3><a b><><c\n>{ordinary.uid}\ntrouble\n"
    assert waiter.wait(10) == -signal.SIGPIPE, "a shell says nothing of that"
    assert is_alive(asking)


def test_a_waiter_that_ignores_sigpipe_is_ended_all_the_same(inside, command):
    command("squeue", "exit 0")
    waiter = inside.process(ignores_pipe=True)
    inside.run(inside.process(), waiter)
    inside.until(lambda: not is_alive(waiter))
    assert waiter.returncode == -signal.SIGKILL


def test_the_signal_that_a_command_died_of_is_told(inside, command):
    command("squeue", "kill -TERM $$")
    asking = inside.process()
    inside.run(asking, inside.process())
    assert inside.told(asking) == f"signal {signal.SIGTERM.value}\n"


def test_a_signal_of_the_asking_process_reaches_its_command_alone(inside, command):
    command("squeue", f"trap 'exit 5' USR1; {ENDLESS}")
    asking, other = inside.process(), inside.process()
    for process in (asking, other):
        inside.run(process, inside.process())
    inside.until(lambda: inside.said() == "begun\nbegun\n")
    inside.write(f"signal {asking.pid} USR1\nsignal {asking.pid} NONE\nsignal x USR1\n")
    assert inside.told(asking) == "exit 5\n"
    assert not (inside.path / "ended" / str(other.pid)).exists()


@pytest.mark.parametrize("who", ["asks", "waits"])
def test_a_strangers_process_neither_asks_nor_is_ended(inside, command, who):
    command("squeue", "echo ran")
    asking, waiter = (inside.process(is_roots=who == role) for role in ("asks", "waits"))
    before = open_files()
    inside.run(asking, waiter)
    assert open_files() == before, "a command would be held"
    mine, mine_waits = inside.process(), inside.process()
    inside.run(mine, mine_waits)
    assert inside.told(mine) == "exit 0\n"
    assert [entry.name for entry in (inside.path / "ended").iterdir()] == [str(mine.pid)]
    assert inside.said() == "ran\n"
    assert is_alive(asking)
    assert is_alive(waiter)


@pytest.mark.parametrize(
    "line",
    [
        "run {asking} {waiter} 0 sh",
        "run {asking} {waiter} 0 ../squeue",
        "run {asking} {waiter} 0",
        "run {asking} {waiter} 0 squeue more",
        "run {asking} {waiter} -1 squeue",
        "run {asking} -1 0 squeue",
        "run {asking} " + "9" * 5000 + " 0 squeue",  # more digits than int() takes
        "run {asking} ² 0 squeue",
        "RUN {asking} {waiter} 0 squeue",
        "run {asking} 999999999 0 squeue",
        "",
    ],
    ids=range(11),
)
def test_a_line_that_makes_no_sense_is_passed_over(inside, command, line):
    command("squeue", "echo ran")
    command("sh", "echo ran another")
    asking, waiter = inside.process(), inside.process()
    inside.write(line.format(asking=asking.pid, waiter=waiter.pid) + "\n")
    assert is_alive(waiter)
    inside.run(asking, waiter)
    assert inside.told(asking) == "exit 0\n"
    assert inside.said() == "ran\n"


def test_a_line_may_come_in_pieces_and_an_endless_one_is_not_kept(inside, command):
    command("squeue", "exit 0")
    asking, waiter = inside.process(), inside.process()
    for _ in range(3):
        inside.write("x" * 1000)
    inside.write(f"run {asking.pid} {waiter.pid}")
    inside.write(" 0 squeue\n")
    assert inside.told(asking) == "exit 0\n"


def test_the_command_of_a_process_that_is_gone_is_killed_and_its_end_forgotten(inside, command):
    command("squeue", ENDLESS)
    command("sinfo", "exit 0")
    before = open_files()
    asking, other = inside.process(), inside.process()
    inside.run(asking, inside.process())
    inside.run(other, inside.process(), name="sinfo")
    inside.told(other)
    (child,) = [each.child for each in inside.door._commands.values() if each.child]
    for process in (asking, other):
        process.kill()
        process.wait()
    inside.until(lambda: not inside.door._commands)
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    assert list((inside.path / "ended").iterdir()) == []
    for process in inside._processes:
        process.stdin.close()
    assert open_files() <= before


@pytest.mark.parametrize("has_ended", [False, True])
def test_who_asks_again_for_its_command_is_woken_by_that_ones_end(inside, command, has_ended):
    command("squeue", f"trap 'exit 0' USR1; {ENDLESS}")
    asking, lost, waiter = (inside.process() for _ in range(3))
    inside.run(asking, lost)
    inside.until(lambda: "begun" in inside.said())
    lost.kill()
    if not has_ended:
        inside.run(asking, waiter)
    inside.write(f"signal {asking.pid} USR1\n")
    assert inside.told(asking) == "exit 0\n"
    if has_ended:  # it looked just before that was told
        inside.run(asking, waiter)
    assert waiter.wait(10) == -signal.SIGPIPE
    assert inside.said() == "begun\n", "once"


def test_more_commands_at_a_time_than_can_be_held_are_refused_in_words(
    inside, command, monkeypatch
):
    monkeypatch.setattr(door_module, "_MOST_COMMANDS", 1)
    command("squeue", ENDLESS)
    inside.run(inside.process(), inside.process())
    asking, waiter = inside.process(), inside.process()
    inside.run(asking, waiter)
    assert inside.told(asking) == "say more than 1 commands at a time\n"
    assert waiter.wait(10) == -signal.SIGPIPE


def test_a_node_that_can_fork_no_more_says_so(inside, monkeypatch):
    asking, waiter = inside.process(), inside.process()

    def refuse(*_):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(inside.door, "_start", refuse)
    inside.run(asking, waiter)
    told = inside.told(asking)
    assert told == "say the node cannot start it: Resource temporarily unavailable\n"
    assert waiter.wait(10) == -signal.SIGPIPE


def test_a_node_without_the_program_says_which(inside, open_dir):
    asking = inside.process()
    inside.run(asking, inside.process(), name="sinfo")
    assert inside.told(asking) == "exit 1\n"
    assert f"sbridge: sinfo: the node has no {open_dir}/sinfo: No such file" in inside.said()


def test_a_door_that_closes_ends_its_commands_and_leaves_nothing(inside, command):
    command("squeue", ENDLESS)
    asking = inside.process()
    inside.run(asking, inside.process())
    inside.until(lambda: "begun" in inside.said())
    (child,) = [each.child for each in inside.door._commands.values()]
    inside.door.close()
    inside.door.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    assert not inside.path.exists()
    asking.kill()
    assert inside.poll.poll(0) == []


def test_a_door_opens_for_its_user_alone_whatever_the_umask(inside, open_dir, ordinary):
    before = os.umask(0o077)
    try:
        door = Door(str(open_dir / "steps-8"), inside.entry, select.poll())
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    status = (open_dir / "steps-8/door").stat()
    assert stat.S_ISFIFO(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o200, ordinary.uid)
    assert stat.S_IMODE((open_dir / "steps-8").stat().st_mode) == 0o755
    door.close()


def test_a_door_for_which_there_is_no_room_leaves_nothing_open_and_the_umask(inside, open_dir):
    before, umask = open_files(), os.umask(0o022)
    try:
        with pytest.raises(NotADirectoryError):
            Door(str(open_dir / "output/steps"), inside.entry, select.poll())
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    assert open_files() == before
