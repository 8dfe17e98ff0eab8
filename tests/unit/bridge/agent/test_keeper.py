"""A keeper and its tasks, in no other namespaces than the tests' own; the test is sbridge-run."""

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from bridge import kernel, wire
from bridge.agent import keeper
from bridge.agent.heritage import Heritage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can renounce for good")
LONG = "echo begun; exec sleep 600"


class Task:
    """One task, as sbridge-run sees it."""

    def __init__(self, folder, body, uid, bin_dir="/", namespace=None, init=0, cgroup=b"slurm"):
        self.ours, self._theirs = socket.socketpair()
        self.ours.settimeout(30)
        self.stdout, self._writer = os.pipe2(os.O_CLOEXEC)
        caller = kernel.open_process(os.getpid())
        self.passed = [self._theirs.fileno(), caller, kernel.open_process(init or os.getpid())]
        if namespace:
            self.passed.append(os.open(namespace, os.O_RDONLY))
        self.passed.append(self._writer)
        fields = [("uid", b"%d" % uid), ("cgroup", cgroup), ("task", b"1"), ("cwd", b"/")]
        fields += [("door", os.fsencode(folder / f"door{self.stdout}")), ("fd", b"1")]
        fields += [("warnings", os.fsencode(folder / "warnings")), ("env", b"PATH=/usr/bin:/bin")]
        fields += [("usage", os.fsencode(folder / "usage")), ("bin_dir", os.fsencode(bin_dir))]
        fields += [("env", b"DOOR=%s" % os.fsencode(folder / f"door{self.stdout}"))]
        fields += [("arg", word) for word in (b"/bin/sh", b"-c", body.encode())]
        fields += [("namespace", b"mnt")] if namespace else []
        fields += Heritage.of(os.getpid(), caller).orders()
        self.order = wire.Message("enter", fields)

    def sent(self):
        """Let go of what the keeper has now."""
        for descriptor in self.passed[1:]:
            os.close(descriptor)
        self._theirs.close()

    def receive(self):
        message, self.keeper = wire.receive(self.ours)
        return message

    def go(self):
        assert self.receive().kind == "entered"
        wire.send(self.ours, wire.Message("go", []))

    def begin(self):
        """Go, and wait for the script's first word."""
        self.go()
        assert os.read(self.stdout, 64) == b"begun\n"

    def signal(self, number, to=b"script"):
        wire.send(self.ours, wire.Message("signal", [("number", b"%d" % number), ("to", to)]))

    def end(self):
        """Return the wait status that is told, and the keeper's pidfd or None."""
        message = self.receive()
        assert message.kind == "exited", message.fields
        return int(message.first("status")), self.keeper[0] if self.keeper else None

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.stdout)
        self.ours.close()


@pytest.fixture
def keep(tmp_path):
    """Start a keeper with a task; the returned function sends it another one."""
    made, channels, keepers = [], [], []

    def task(body, uid=None, **options):
        made.append(Task(tmp_path, body, os.getuid() if uid is None else uid, **options))
        return made[-1]

    def start(body, **options):
        first = task(body, **options)
        ours, theirs = socket.socketpair()
        channels.append(ours)
        pid = os.fork()
        if pid == 0:
            try:
                for one in (*made, *channels):  # else it would not see their ends
                    one.close()
                os.setsid()
                keeper.enter(first.order, [os.dup(theirs.fileno()), *map(os.dup, first.passed)])
            finally:
                os._exit(1)
        keepers.append(pid)
        theirs.close()
        first.sent()

        def another(body, **options):
            one = task(body, **options)
            try:
                wire.send(ours, one.order, one.passed)
            finally:
                one.sent()
            return one

        another.pid, another.hang_up = pid, ours.close
        return first, another

    yield start
    for one in (*made, *channels):
        one.close()
    for pid in keepers:
        os.waitpid(pid, 0)  # without its sbridge-runs it ends


def has_ended(held, timeout_ms=10_000):
    poll = select.poll()
    poll.register(held, select.POLLIN)
    ended = bool(poll.poll(timeout_ms))
    os.close(held)
    return ended


def test_tasks_of_one_keeper_end_each_in_its_own_way_and_it_ends_with_the_last(keep):
    first, another = keep(LONG)
    others = [another(f"echo begun; exit {code}") for code in (0, 7)]
    first.begin()
    for one, status in zip(others, (0, 7 << 8), strict=True):
        one.begin()
        assert one.end() == (status, None), "there is one more, so nobody waits for the keeper"
    first.signal(signal.SIGKILL)
    status, held = first.end()
    assert status == signal.SIGKILL
    assert has_ended(held)


def test_a_signal_reaches_the_task_that_it_is_for(keep):
    first, another = keep(LONG)
    second = another("trap 'echo got' USR1; echo begun; while :; do sleep 0.05; done")
    first.begin()
    second.begin()
    second.signal(signal.SIGUSR1, to=b"group")
    assert os.read(second.stdout, 64) == b"got\n"
    second.signal(signal.SIGKILL, to=b"group")
    assert second.end() == (signal.SIGKILL, None)
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


FAMILY = """trap 'echo script' USR1
(trap 'echo other' USR1; echo begun; while :; do sleep 0.05; done) &
while :; do sleep 0.05; done"""


@pytest.mark.parametrize("cgroup", [b"slurm", b"sandbox"])
def test_a_signal_that_was_for_the_group_reaches_the_others_later(keep, cgroup):
    first, _ = keep(FAMILY, cgroup=cgroup)
    first.begin()
    first.signal(signal.SIGUSR1)
    assert os.read(first.stdout, 64) == b"script\n"
    first.signal(signal.SIGUSR1, to=b"others")
    assert os.read(first.stdout, 64) == b"other\n"
    first.signal(signal.SIGKILL, to=b"group")
    assert first.end()[0] == signal.SIGKILL
    assert os.read(first.stdout, 64) == b"", "each got it once"


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_task_whose_sbridge_run_dies_ends_alone(keep, has_begun):
    first, another = keep(LONG)
    second = another(LONG)
    first.begin()
    if has_begun:
        second.begin()
    else:
        assert second.receive().kind == "entered"
    second.ours.close()
    assert os.read(second.stdout, 1) == b"", "nobody has its stdout open any more"
    third = another("echo begun")
    third.begin()
    assert third.end() == (0, None)
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_a_task_that_cannot_enter_is_told_and_the_others_stay(keep):
    first, another = keep(LONG)
    second = another(LONG, uid=os.getuid() + 1)
    refusal = second.receive()
    assert (refusal.kind, refusal.first("exit_code")) == ("failed", b"1")
    assert "not the job's owner" in refusal.text("text")
    assert second.receive() is None
    first.begin()
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_a_task_for_which_the_node_has_no_room_ends_alone(keep, tmp_path):
    first, another = keep(LONG)
    first.begin()
    second = another(LONG)
    (tmp_path / f"door{second.stdout}").touch()  # so that no folder of that name can be made
    second.go()
    refusal = second.receive()
    assert (refusal.kind, refusal.first("exit_code")) == ("failed", b"1")
    assert "Not a directory" in refusal.text("text")
    assert os.read(second.stdout, 1) == b"", "nothing runs of it"
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


@pytest.mark.parametrize("number", [b"1000", b"TERM", b""])
def test_a_message_that_makes_no_sense_ends_the_senders_task_alone(keep, number):
    first, another = keep(LONG)
    first.begin()
    second = another(LONG)
    second.begin()
    wire.send(second.ours, wire.Message("signal", [("number", number)]))
    assert second.receive().kind == "failed"
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_open_files_that_nobody_asked_for_are_not_kept(keep):
    first, another = keep(LONG)
    second = another(LONG)
    first.begin()
    second.begin()
    ours, theirs = os.pipe()
    orders = [("number", b"%d" % signal.SIGURG), ("to", b"script")]
    wire.send(second.ours, wire.Message("signal", orders), [theirs])
    os.close(theirs)
    assert select.select([ours], [], [], 5)[0], "the keeper has the other end"
    assert os.read(ours, 1) == b""
    assert os.read(second.stdout, 1) == b"", "sbridge-run sends none, so it is another one"
    os.close(ours)
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_who_stops_in_the_middle_of_a_message_holds_no_other_up(keep):
    first, another = keep(LONG)
    first.begin()
    second = another(LONG)
    second.begin()
    second.ours.sendall(b"\0\0")
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM
    assert os.read(second.stdout, 1) == b"", "it counts as gone"


def test_a_first_task_that_cannot_enter_leaves_no_keeper(keep):
    first, another = keep(LONG, uid=os.getuid() + 1)
    assert first.receive().kind == "failed"
    assert os.waitid(os.P_PID, another.pid, os.WEXITED | os.WNOWAIT).si_status == 0


def test_a_killed_task_whose_sandbox_may_be_ending_holds_no_other_up(keep):
    first, another = keep(LONG)
    second = another("trap 'echo got' USR1; echo begun; while :; do sleep 0.01; done")
    first.begin()
    second.begin()
    first.signal(signal.SIGKILL)
    begun = time.monotonic()
    second.signal(signal.SIGUSR1, to=b"group")
    assert os.read(second.stdout, 64) == b"got\n"
    answered = time.monotonic() - begun
    assert first.end() == (signal.SIGKILL, None)
    assert answered < time.monotonic() - begun
    second.signal(signal.SIGKILL, to=b"group")
    assert second.end()[0] == signal.SIGKILL


def test_a_task_that_comes_as_the_last_one_ends_is_held_or_was_never_taken(keep):
    """Whatever the agent could send is told `entered`; what it could not goes to a new keeper."""
    held = refused = tries = 0
    while tries < 40 or not (held and refused):
        tries += 1
        assert tries < 400
        first, another = keep("exit 0")
        first.go()
        time.sleep(tries % 20 / 4000 * (1 + tries // 40))
        try:
            second = another("exit 5")
        except OSError:
            refused += 1
        else:
            second.go()
            assert second.end()[0] == 5 << 8
            held += 1
        assert first.end()[0] == 0


def test_a_keeper_takes_no_more_tasks_than_it_can_hold(keep, monkeypatch):
    monkeypatch.setattr(keeper, "_MOST_TASKS", 3)
    first, another = keep(LONG)
    first.begin()
    tasks = [first, another(LONG), another(LONG)]
    for one in tasks[1:]:
        one.begin()
    with pytest.raises(OSError, match="pipe"):
        another(LONG)
    for one in tasks:
        one.signal(signal.SIGTERM)
        assert one.end()[0] == signal.SIGTERM


def test_a_keeper_of_many_short_tasks_keeps_nothing_of_them(keep):
    first, another = keep(LONG)
    first.begin()

    def opened():
        return sorted(os.listdir(f"/proc/{another.pid}/fd"))

    def run_one():
        one = another("echo begun")
        one.begin()
        assert one.end() == (0, None)
        assert one.receive() is None  # it is closed only now

    run_one()
    before = opened()
    for _ in range(10):
        run_one()
    assert opened() == before
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_a_task_that_dies_as_it_is_told_to_go_ends_as_it_ended(keep):
    first, another = keep(LONG)
    first.begin()
    for _ in range(30):
        second = another(LONG, namespace="/dev/null")  # there it cannot go
        wire.send(second.ours, wire.Message("go", []))
        assert second.receive().kind == "entered"
        said = second.receive()
        assert said.kind == "warning"
        assert said.text("text").startswith("cannot start the job in its sandbox")
        assert second.end() == (errno.EINVAL << 8, None)
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_a_task_whose_sandbox_ends_before_it_is_told_to_go_is_told_nothing_else(keep):
    first, another = keep(LONG)
    first.begin()
    with subprocess.Popen(["sleep", "600"]) as sandbox:
        second = another(LONG, init=sandbox.pid)
        assert second.receive().kind == "entered"
        sandbox.kill()
    wire.send(second.ours, wire.Message("go", []))
    assert second.receive() is None
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


COMMAND = """
sleep 600 & asking=$!; sleep 600 & waiter=$!
echo "run $asking $waiter 0 squeue" >%s/door; echo $asking $waiter; wait
"""


def test_commands_that_a_task_leaves_are_collected(keep, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho begun; exec sleep 600\n")
    squeue.chmod(0o755)
    first, another = keep(LONG)
    first.begin()
    second = another(COMMAND % "$DOOR", bin_dir=tmp_path)
    second.go()
    with open(second.stdout, closefd=False) as stdout:
        words = [stdout.readline(), stdout.readline()]
    words.remove("begun\n")
    second.signal(signal.SIGKILL)
    assert second.end()[0] == signal.SIGKILL
    assert second.receive() is None
    children = Path(f"/proc/{another.pid}/task/{another.pid}/children").read_text().split()
    for pid in map(int, words[0].split()):
        os.kill(pid, signal.SIGKILL)
    assert len(children) == 1, "the first task's process"
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM


def test_tasks_go_on_without_an_agent(keep):
    first, another = keep(LONG)
    first.begin()
    second = another(LONG)
    another.hang_up()
    os.kill(another.pid, signal.SIGTERM)  # which it does not mind either
    second.begin()
    second.signal(signal.SIGTERM)
    assert second.end() == (signal.SIGTERM, None)
    first.signal(signal.SIGTERM)
    status, keeper_pidfd = first.end()
    assert status == signal.SIGTERM
    assert has_ended(keeper_pidfd)


def may_lower_oom_score():
    """Whether this root may: that of a container may not (CAP_SYS_RESOURCE)."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"-1000")
            file.flush()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_keeper_is_the_last_to_be_killed_for_lack_of_memory_and_its_tasks_are_not(keep):
    with open("/proc/self/oom_score_adj") as file:
        usual = file.read()
    first, another = keep("cat /proc/self/oom_score_adj; exec sleep 600")
    for task in (first, another("cat /proc/self/oom_score_adj")):
        task.go()
        assert os.read(task.stdout, 64).decode() == usual
    with open(f"/proc/{another.pid}/oom_score_adj") as file:
        assert file.read() == ("-1000\n" if may_lower_oom_score() else usual)
    first.signal(signal.SIGTERM)
    assert first.end()[0] == signal.SIGTERM
