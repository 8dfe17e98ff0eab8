"""sbridge-run from its start to the end of its script; the agent and keeper are the test's."""

import errno
import fcntl
import os
import pty
import resource
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bridge import wire
from tests.unit.native.run.played_agent import (
    JOB,
    PATIENCE_S,
    descriptors_of,
    ended,
    ignoring,
    status_of,
    wait_for,
)

NOBODY = 65533
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
HARMLESS = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH}
DEADLY = sorted(signal.valid_signals() - STOPPING - HARMLESS)
REFUSAL = ("failed", ("text", b"no"), ("exit_code", b"3"))
GONE = "sbridge: the sbridge agent of this node went away; waiting for its return\n"
KILLED = "sbridge: the process that held this step inside its sandbox was killed from outside\n"
LOST = "sbridge: the sandbox of this job ended, and everything in it: "


def exited(status, *more):
    return ("exited", ("status", b"%d" % status), *more)


# What it asks for.


@pytest.mark.parametrize("missing", [b"SLURM_JOB_ID", b"SLURMD_NODENAME"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_outside_a_job_it_says_so(agent, missing, is_empty):
    environment = agent.environment
    del environment[missing]
    if is_empty:
        environment[missing] = b""
    said = "sbridge: not inside a Slurm job (SLURM_JOB_ID and SLURMD_NODENAME are not set)\n"
    assert ended(agent.start("/bin/sh", env=environment)) == (1, said)


def test_a_node_of_a_long_name_has_no_socket(checked):
    environment = checked.environment | {b"SLURMD_NODENAME": b"n" * 100}
    code, said = ended(checked.start("/bin/sh", env=environment))
    assert code == 1
    assert "n" * 100 + "/agent.sock, is too long" in said


def test_it_goes_by_its_own_name(agent, slurm_script):
    script = slurm_script(b"#!%s /bin/sh\n" % os.fsencode(agent.program))
    script.chmod(0o755)
    step = agent.start("x", executable=script)
    agent.accept()
    assert Path(f"/proc/{step.pid}/comm").read_text() == "sbridge-run\n"


def test_the_environment_arrives_as_it_was_given(agent):
    pairs = [
        b"SLURM_JOB_ID=7",
        b"SLURMD_NODENAME=" + agent.node.encode(),
        b"EMPTY=",
        b"A=b=c",
        b"A=twice",
        b"=odd",
        b"==",
        b"no pair",
        b"",
        b"\xff\xfe=\xc3",
        b"LINES=a\nb\x01",
        b"BASH_FUNC_x%%=() { :; }",
        b"LD_PRELOAD=/no/such",
    ]
    agent.start("/bin/sh", pairs=pairs)
    nameless = {b"=odd", b"==", b"no pair", b""}  # no shell could use them, and no Python pass on
    assert agent.accept().hear().every("env") == [pair for pair in pairs if pair not in nameless]


def test_six_megabytes_of_environment_and_arguments_arrive(agent):
    def much():
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.RLIM_INFINITY))

    pairs = [key + b"=" + value for key, value in agent.environment.items()]
    pairs += [b"V%d=" % number + b"x" * 120_000 for number in range(40)]
    arguments = [b"a" * 100_000] * 10
    step = agent.start("/bin/sh", *arguments, pairs=pairs, before=much)
    line = agent.accept()
    message = line.hear()
    assert (message.every("env"), message.every("arg")[1:]) == (pairs, arguments)
    line.say(*REFUSAL)
    assert ended(step) == (3, "sbridge: no\n")


def test_it_tells_where_it_is_and_who(agent, paths, tmp_path):
    agent.start("/bin/sh", cwd=tmp_path)
    message = agent.accept().hear()
    assert message.every("cwd") == [os.fsencode(tmp_path)]
    assert message.every("runner") == [os.fsencode(paths.runner)]
    assert message.every("task") == []


def test_in_a_removed_directory_it_is_at_the_root(agent, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    agent.start("/bin/sh", cwd=folder, before=folder.rmdir)
    assert agent.accept().hear().every("cwd") == [b"/"]


@pytest.mark.parametrize(
    ("ignored", "told"),
    [
        ((), []),
        ((signal.SIGPIPE,), [b"13"]),
        ((signal.SIGXFSZ, signal.SIGHUP), []),
    ],
)
def test_it_tells_whether_it_found_sigpipe_ignored(agent, ignored, told):
    step = agent.start("/bin/sh", before=ignoring(*ignored))
    assert agent.accept().hear().every("ignored") == told
    # The agent reads the others.
    mask = sum(1 << number - 1 for number in {*ignored, signal.SIGPIPE})
    assert int(status_of(step.pid, "SigIgn"), 16) == mask


def test_the_agent_finds_blocked_what_was_blocked(agent):
    blocked = {signal.SIGUSR1, signal.SIGTERM}
    step = agent.start("/bin/sh", before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked))
    agent.accept().hear()
    assert int(status_of(step.pid, "SigBlk"), 16) == sum(1 << number - 1 for number in blocked)


# Its files.


def files_of(line, message):
    """Return which files a step has, by number, as `stat` tells them apart."""
    numbers = [int(number) for number in message.every("fd")]
    found = [os.fstat(descriptor) for descriptor in line.descriptors]
    return dict(zip(numbers, [(stat.st_dev, stat.st_ino) for stat in found], strict=True))


def test_its_files_go_with_their_numbers(agent, tmp_path):
    files = {number: tmp_path / str(number) for number in (0, 1, 2, 7, 200)}
    for path in files.values():
        path.touch()

    def spread():
        os.closerange(3, 1024)
        for number, path in files.items():
            os.dup2(os.open(path, os.O_RDWR), number, inheritable=True)
        os.closerange(3, 7)
        os.open("/", os.O_PATH)  # close-on-exec

    agent.start("/bin/sh", before=spread, close_fds=False)
    line = agent.accept()
    message = line.hear(keeps=True)
    assert message.every("fd") == [b"0", b"1", b"2", b"7", b"200"]
    given = {number: (path.stat().st_dev, path.stat().st_ino) for number, path in files.items()}
    assert files_of(line, message) == given


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2), (0, 2)])
def test_what_is_closed_stays_closed_for_the_script(agent, closed):
    def close():
        for number in closed:
            os.close(number)

    step = agent.start("/bin/sh", before=close)
    line = agent.accept()
    message = line.hear(keeps=True)
    assert message.every("fd") == [b"%d" % number for number in (0, 1, 2) if number not in closed]
    assert len(line.descriptors) == 3 - len(closed)
    wire.close_all(line.descriptors)
    line.say("waiting", ("text", b"pulling"))
    line.say(*REFUSAL)
    assert ended(step) == (3, "" if 2 in closed else "sbridge: pulling\nsbridge: no\n")


def having_open(count):
    def open_them():
        os.closerange(3, 1024)  # what the tests were started with
        for number in range(3, count):
            os.dup2(0, number, inheritable=True)

    return open_them


def test_sixty_two_open_files_and_a_script_go(agent, slurm_script):
    agent.start("/bin/sh", slurm_script(), before=having_open(62), close_fds=False)
    line = agent.accept()
    message = line.hear(keeps=True)
    assert message.every("fd") == [b"%d" % number for number in range(62)]
    assert len(line.descriptors) == 63
    assert os.pread(line.descriptors[-1], 9, 0) == b"#!/bin/sh"


@pytest.mark.parametrize("count", [63, 64, 300])
def test_more_open_files_are_refused(agent, count):
    code, said = ended(agent.start("/bin/sh", before=having_open(count), close_fds=False))
    assert code == 1
    assert said == (
        f"sbridge: this step has {count} open files, and 62 can go into a sandbox at most; close "
        "those that it does not need, as with `exec 9>&-`, before it begins\n"
    )


@pytest.mark.parametrize(
    ("limit", "argv", "words"),
    [
        (3, ["/bin/sh"], "cannot see which files this step has open"),
        (4, ["/bin/sh", "SCRIPT"], "cannot reach the sbridge agent of this node"),
        (4, ["/bin/sh"], "cannot see this step's signals"),
    ],
)
def test_without_a_free_descriptor_it_ends_and_says_why(fast, slurm_script, limit, argv, words):
    """Natively such a script may run; but never must its output be lost."""

    def narrow():
        os.closerange(3, 1024)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    path = str(slurm_script())
    argv = [word.replace("SCRIPT", path) for word in argv]
    step = fast.start(*argv, before=narrow, close_fds=False)
    if "signals" in words:
        line = fast.accept()
        line.hear()
        line.say("entered")
    assert ended(step) == (1, f"sbridge: {words}: Too many open files\n")


# The agent's answers.


def test_it_says_what_it_waits_for_and_nothing_twice(agent):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    for text in (b"pulling", b"pulling", b"", b"pulling", b"starting %s%n", b"pulling \xff"):
        line.say("waiting", ("text", text))
    line.say("waiting")
    line.say(*REFUSAL)
    said = ["pulling", "starting %s%n", "pulling \udcff", "no"]
    assert ended(step) == (3, "".join(f"sbridge: {text}\n" for text in said))


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ([("text", b"no"), ("exit_code", b"3")], 3, "no"),
        ([("text", b"no")], 1, "no"),
        ([("text", b"no"), ("exit_code", b"0")], 1, "no"),
        ([("text", b"no"), ("exit_code", b"256")], 1, "no"),
        ([("text", b"no"), ("exit_code", b"255")], 255, "no"),
        ([("text", b"no"), ("exit_code", b"x")], 1, "no"),
        ([("text", b"x" * 9000), ("exit_code", b"2"), ("text", b"other")], 2, "x" * 9000),
        ([], 1, "unexpected answer 'failed' of the agent"),
    ],
)
def test_a_refused_step_ends_with_the_agents_words(checked, fields, code, said):
    step = checked.start("/bin/sh")
    line = checked.accept()
    line.hear()
    line.say("failed", *fields)
    assert ended(step) == (code, f"sbridge: {said}\n")


def test_an_answer_that_it_does_not_know_ends_it(checked):
    step = checked.start("/bin/sh")
    line = checked.accept()
    line.hear()
    line.say("newer", ("key", b"value"))
    assert ended(step) == (1, "sbridge: unexpected answer 'newer' of the agent\n")


def test_an_agent_that_would_not_even_listen_is_heard(agent):
    pairs = [key + b"=" + value for key, value in agent.environment.items()]
    pairs += [b"V%d=" % number + b"x" * 100_000 for number in range(10)]
    step = agent.start("/bin/sh", pairs=pairs)
    line = agent.accept()
    line.say(*REFUSAL)
    line.end()
    assert ended(step) == (3, "sbridge: no\n")


def test_a_busy_agent_is_asked_again(checked):
    step = checked.start("/bin/sh")
    for _ in range(3):
        line = checked.accept()
        line.say("busy", ("text", b"full"))
        line.end()
    line = checked.accept()
    assert line.hear().kind == "enter"
    line.say(*REFUSAL)
    said = "sbridge: full; waiting for the sbridge agent of this node\nsbridge: no\n"
    assert ended(step) == (3, said)


@pytest.mark.parametrize("phase", ["connected", "asked", "waiting"])
def test_an_agent_that_goes_away_is_asked_again_on_its_return(checked, phase):
    step = checked.start("/bin/sh", "--", "a b")
    asked = []
    for _ in range(3):
        line = checked.accept()
        if phase != "connected":
            asked.append(line.hear().fields)
        if phase == "waiting":
            line.say("waiting", ("text", b""))
        line.end()
    line = checked.accept()
    asked.append(line.hear().fields)
    line.say(*REFUSAL)
    assert ended(step) == (3, GONE + "sbridge: no\n")
    assert asked == [asked[0]] * len(asked)


def test_the_witness_of_an_attempt_goes_with_it(checked):
    step = checked.start("/bin/sh")
    children = Path(f"/proc/{step.pid}/task/{step.pid}/children")
    for _ in range(3):
        line = checked.accept()
        line.hear()
        wait_for(lambda: len(children.read_text().split()) == 1)
        line.end()
    checked.accept().hear()
    wait_for(lambda: len(children.read_text().split()) == 1)


def test_it_waits_for_an_agent_that_is_not_there_yet(checked):
    checked.vanish()
    step = checked.start("/bin/sh")
    waiting = b"sbridge: waiting for the sbridge agent of this node\n"
    assert step.stderr.read(len(waiting)) == waiting
    checked.listen()
    line = checked.accept()
    line.hear()
    line.say(*REFUSAL)
    assert ended(step) == (3, "sbridge: no\n")


def test_an_agent_that_never_comes_is_not_waited_for_for_ever(impatient):
    impatient.vanish()
    code, said = ended(impatient.start("/bin/sh"))
    assert code == 1
    waiting, end = said.splitlines()
    assert waiting == "sbridge: waiting for the sbridge agent of this node"
    assert end.startswith("sbridge: no sbridge agent answers at /")
    assert f"{impatient.node}/agent.sock since " in end
    impatient.listen()


def test_a_step_that_cannot_send_its_files_tries_again(agent):
    """Linux bounds how many files of a user are on their way, but for those of root."""

    def narrow():
        resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)

    steps = [agent.start("/bin/sh", before=narrow) for _ in range(6)]
    ready, _, _ = select.select([step.stderr for step in steps], [], [], PATIENCE_S)
    assert ready[0].readline() == GONE.encode()
    while any(step.poll() is None for step in steps):
        agent.refuse_within(0.05)
    assert {ended(step)[0] for step in steps} == {3}


def test_agents_that_never_answer_are_not_asked_for_ever(impatient):
    step = impatient.start("/bin/sh")
    asked = 0
    while step.poll() is None and asked < 1000:
        impatient.refuse_within(0.05, None)
        asked += 1
    code, said = ended(step)
    assert code == 1
    assert said.splitlines()[-1].startswith("sbridge: no sbridge agent answers at ")


def test_an_agent_that_says_something_gets_the_whole_time_again(impatient):
    step = impatient.start("/bin/sh")
    began = time.monotonic()
    while time.monotonic() - began < 1.2:  # twice its patience
        line = impatient.accept()
        line.hear()
        line.say("waiting", ("text", b"pulling"))
        line.end()
    line = impatient.accept()
    line.hear()
    line.say(*REFUSAL)
    assert ended(step)[0] == 3


def test_a_step_that_ends_while_it_waits_leaves_nothing(agent):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    children = Path(f"/proc/{step.pid}/task/{step.pid}/children")
    witness = int(wait_for(lambda: children.read_text().strip()))
    step.terminate()
    assert step.wait(PATIENCE_S) == -signal.SIGTERM
    wait_for(lambda: status_of(witness, "State")[:1] in ("", "Z"))
    assert line.socket.recv(1) == b""


# Becoming the interpreter.


@pytest.fixture
def become(agent):
    """Have a step become its interpreter; returns its exit code, stdout and stderr."""

    def become(*argv, fields=(), **options):
        step = agent.start(*argv, **options)
        line = agent.accept()
        line.hear()
        line.say("exec", *fields)
        out, err = step.communicate(timeout=PATIENCE_S)
        return step.returncode, out, err

    return become


def test_a_step_without_a_sandbox_becomes_its_interpreter(become, tmp_path):
    script = tmp_path / "slurm_script"
    script.write_text('printf "%s|" "$0" "$@"; exit 7')
    code, out, err = become("/bin/sh -e", script, "a b", "")
    assert (code, err) == (7, b"")
    assert out == os.fsencode(script) + b"|a b||"


def test_it_takes_the_environment_that_the_agent_names(become, agent):
    pairs = [key + b"=" + value for key, value in agent.environment.items()]
    odd = [b"A=1", b"AB=1", b"B=1", b"A=2", b"=x", b"\xff=\xfe"]
    fields = [("env", b"A=b=c"), ("env", b"NEW="), ("env", b"=y")]
    code, out, _ = become("/usr/bin/cat", "/proc/self/environ", pairs=pairs + odd, fields=fields)
    changed = [b"A=b=c", b"AB=1", b"B=1", b"A=b=c", b"=y", b"\xff=\xfe", b"NEW="]
    assert (code, out) == (0, b"".join(pair + b"\0" for pair in pairs + changed))


def test_it_goes_to_the_working_directory_that_the_agent_names(become, tmp_path):
    assert become("/bin/pwd", fields=[("cwd", os.fsencode(tmp_path))])[1:] == (
        b"%s\n" % os.fsencode(tmp_path),
        b"",
    )
    code, out, err = become("/bin/pwd", fields=[("cwd", b"/no/such")], cwd=tmp_path)
    here = os.fsencode(tmp_path)
    assert (code, out) == (0, here + b"\n")
    reason = b"/no/such: No such file or directory"
    assert err == b"sbridge: working directory %s; using %s\n" % (reason, here)


@pytest.mark.parametrize(
    ("content", "mode", "number"),
    [
        (None, 0, errno.ENOENT),
        (b"#!/bin/sh\n", 0o644, errno.EACCES),
        (b"\x7fELFgarbage", 0o755, errno.ENOEXEC),
        (b"#!/no/such\n", 0o755, errno.ENOENT),
    ],
)
def test_an_interpreter_that_cannot_start_ends_it_as_slurm_does(
    become, tmp_path, content, mode, number
):
    path = tmp_path / "interpreter"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    code, _, err = become(path, "/s/slurm_script")
    assert (code, err) == (number, b"sbridge: %s: %s\n" % (
        os.fsencode(path), os.strerror(number).encode()))  # fmt: skip


LOOK = "grep -E '^Sig(Blk|Ign)' /proc/self/status; cd /proc/$$/fd; echo *; cat /proc/$$/comm"


@pytest.mark.parametrize("ignored", [(), (signal.SIGPIPE,), (signal.SIGXFSZ, signal.SIGINT)])
@pytest.mark.parametrize("closed", [(), (0,), (0, 2)])
def test_what_it_becomes_inherits_what_it_had_itself(become, slurm_script, ignored, closed):
    """Signals, open files: no more and no less."""
    script = slurm_script(LOOK.encode())

    def before():
        ignoring(*ignored)()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.dup2(1, 9, inheritable=True)
        for number in closed:
            os.close(number)

    native = subprocess.run(
        ["/bin/sh", script], preexec_fn=before, close_fds=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    assert b"9" in native
    assert become("/bin/sh", script, before=before, close_fds=False)[1] == native


# In place of an idle script.


def test_a_step_becomes_the_file_that_the_agent_names(become, tmp_path, slurm_script):
    file = tmp_path / "x.py"
    file.write_text("import os, sys\nprint(sys.argv, os.environ['K8S_SCRIPT'], sys.flags.isolated)")
    fields = [("env", b"K8S_SCRIPT=" + os.fsencode(file)), ("file", os.fsencode(file))]
    code, out, err = become("/bin/bash -l", slurm_script(b""), "a b", fields=fields)
    assert (code, err) == (0, b"")
    assert out.decode() == f"['{file}', 'a b'] {file} 0\n"


def test_a_step_ends_as_the_file_that_the_agent_names(become, make_file, slurm_script):
    file = make_file("bash", b"#!/bin/sh\nexit 9\n", 0o755)
    code, _, said = become("/bin/sh", slurm_script(b""), fields=[("file", file)])
    assert (code, said) == (9, b"")


def test_a_file_that_does_not_start_ends_the_step_like_a_shell(
    become, make_file, slurm_script, unstartable
):
    content, exit_code, words = unstartable
    file = make_file("bash", content, 0o755)  # a name is no reason to try another shell
    code, _, said = become("/bin/sh", slurm_script(b""), fields=[("file", file)])
    assert code == exit_code
    assert words in said.decode()
    assert said.startswith(b"sbridge: K8S_SCRIPT=%s: " % file)


def test_a_file_that_is_not_there_ends_the_step_like_a_shell(become, slurm_script):
    code, _, said = become("/bin/sh", slurm_script(b""), fields=[("file", b"/no/such.py")])
    assert code == 127
    assert said.startswith(b"sbridge: K8S_SCRIPT=/no/such.py: No such file")


@pytest.mark.parametrize(
    "ignored", [(), (signal.SIGPIPE,), (signal.SIGXFSZ,), (signal.SIGPIPE, signal.SIGXFSZ)]
)
def test_the_file_finds_ignored_what_slurm_left_ignored(become, tmp_path, slurm_script, ignored):
    """Though a Python is between, which ignores two signals."""
    file = tmp_path / "x.sh"
    file.write_text("grep SigIgn /proc/self/status")
    fields = [("file", os.fsencode(file))]
    _, out, _ = become("/bin/sh", slurm_script(b""), fields=fields, before=ignoring(*ignored))
    assert int(out.split()[1], 16) == sum(1 << number - 1 for number in ignored)


# Its end.


def test_it_ends_with_every_exit_code(fast):
    for code in range(256):
        step, line, _ = fast.enter()
        line.say(*exited(code << 8))
        assert ended(step) == (code, "")


def test_it_dies_of_every_signal(fast):
    for number in DEADLY:
        step, line, _ = fast.enter()
        line.say(*exited(number))
        assert ended(step) == (-number, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGKILL])
def test_it_dies_of_a_signal_that_was_ignored_or_blocked(agent, number):
    def before():
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    step, line, _ = agent.enter(before=before)
    line.say(*exited(number))
    assert ended(step) == (-number, "")


def test_it_leaves_no_core_of_its_own(fast, tmp_path):
    def unlimited():
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    def has_core(process):
        status = os.waitpid(process.pid, 0)[1]
        process.returncode = os.waitstatus_to_exitcode(status)
        return os.WCOREDUMP(status)

    given = {"cwd": tmp_path, "preexec_fn": unlimited}
    native = subprocess.Popen(["sh", "-c", "kill -QUIT $$"], **given)
    if not has_core(native):
        pytest.skip("nobody leaves cores here")
    for path in tmp_path.iterdir():
        path.unlink()
    step, line, _ = fast.enter(cwd=tmp_path, before=unlimited)
    line.say(*exited(signal.SIGQUIT | 128))
    assert not has_core(step)
    assert step.returncode == -signal.SIGQUIT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [[("status", b"")], [("status", b"x")], []])
def test_an_end_without_a_status_is_no_success(checked, answer):
    step, line, _ = checked.enter()
    line.say("exited", *answer)
    assert ended(step) == (1, "sbridge: nobody tells how the script of this step ended\n")


@pytest.fixture
def process():
    """Give a process that ends when it is killed, and its pidfd."""
    sleeping = subprocess.Popen(["sleep", "600"])
    descriptor = os.pidfd_open(sleeping.pid)
    yield sleeping, descriptor
    sleeping.kill()
    sleeping.wait()
    os.close(descriptor)


def test_it_ends_after_its_keeper(checked, process):
    """For which this program would wait for longer than the test."""
    keeper, descriptor = process
    step, line, witness = checked.enter()
    line.say(*exited(5 << 8), descriptors=[descriptor])
    wait_for(lambda: status_of(witness, "State") == "")
    assert step.poll() is None
    keeper.kill()
    assert ended(step) == (5, "")


def test_a_keeper_that_does_not_end_is_not_waited_for_for_ever(fast, process):
    step, line, _ = fast.enter()
    line.say(*exited(5 << 8), descriptors=[process[1]])
    assert ended(step) == (5, "")


def test_it_passes_on_what_the_keeper_says(agent):
    step, line, _ = agent.enter()
    line.say("warning", ("text", b"the image has no bash"))
    line.say("warning")
    line.say("newer")
    line.say(*exited(0))
    assert ended(step) == (0, "sbridge: the image has no bash\n")


@pytest.mark.parametrize("has_gone", [True, False], ids=["before", "after"])
def test_a_keeper_that_fails_after_it_entered_is_heard(agent, has_gone):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    line.say("entered")
    if not has_gone:
        line.hear()
    line.say("failed", ("text", b"the sandbox could not be entered: x"), ("exit_code", b"4"))
    line.end()
    assert ended(step) == (4, "sbridge: the sandbox could not be entered: x\n")


def answer_why(agent, text, kind="why"):
    line = agent.accept()
    message = line.hear()
    assert (message.kind, message.fields) == ("why", [("env", b"SLURM_JOB_ID=" + JOB)])
    if text is not None:
        line.say(kind, ("text", text))
    line.end()


@pytest.mark.parametrize("phase", ["before go", "after go"])
@pytest.mark.parametrize("text", [b"", None])
def test_a_keeper_that_was_killed_ends_the_step(agent, phase, text):
    step = agent.start("/bin/sh")
    line = agent.accept()
    line.hear()
    line.say("entered")
    if phase == "after go":
        line.hear()
    line.end()
    answer_why(agent, text)
    assert ended(step) == (1, KILLED)


def test_where_no_agent_tells_why_the_keeper_is_gone_it_ends(checked):
    step, line, _ = checked.enter()
    checked.vanish()
    line.end()
    assert ended(step) == (1, KILLED)
    checked.listen()


def test_a_sandbox_that_ended_ends_the_step_as_if_killed(agent):
    step, line, _ = agent.enter()
    line.end()
    answer_why(agent, b"the pod was evicted")
    assert ended(step) == (-signal.SIGKILL, LOST + "the pod was evicted\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"evicted", "evicted"), (None, "nobody tells why"), (b"", "nobody tells why")],
)
def test_a_script_that_went_with_its_sandbox_is_told_of(agent, text, why):
    step, line, _ = agent.enter()
    line.say(*exited(signal.SIGKILL, ("lost", b"1")))
    answer_why(agent, text)
    assert ended(step) == (-signal.SIGKILL, f"{LOST}{why}\n")


@pytest.mark.parametrize("kind", ["refused", "busy", "waiting"])
def test_an_agent_that_does_not_tell_why_is_not_quoted(checked, kind):
    """One of before an upgrade knows no such question; another has no time for it."""
    step, line, _ = checked.enter()
    line.say(*exited(signal.SIGKILL, ("lost", b"1")))
    answer_why(checked, b"not for you", kind)
    assert ended(step) == (-signal.SIGKILL, f"{LOST}nobody tells why\n")


# Its terminal.


@pytest.fixture
def terminal():
    ours, theirs = pty.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)


def at(terminal):
    def take():
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return {"stdin": terminal, "stdout": terminal, "stderr": terminal, "before": take}


def terminal_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


def test_the_script_gets_the_terminal(agent, terminal):
    step = agent.start("/bin/sh", **at(terminal))
    line = agent.accept()
    line.hear()
    assert terminal_of(step.pid) != 0
    line.say("entered")
    line.hear()
    assert terminal_of(step.pid) == 0
    taken = subprocess.run(
        ["true"], stdin=terminal, start_new_session=True, preexec_fn=at(terminal)["before"],
        check=False,
    )  # fmt: skip
    assert taken.returncode == 0
    line.say(*exited(6 << 8))
    assert step.wait(PATIENCE_S) == 6


def test_the_hang_up_is_no_signal_for_the_script(agent, terminal):
    """And its new witness is awake by the time of the first that is one."""
    for _ in range(5):
        step, line, _ = agent.enter(**at(terminal))
        os.killpg(step.pid, signal.SIGUSR1)
        assert line.hear_signal() == (signal.SIGUSR1, True)
        os.killpg(step.pid, signal.SIGHUP)
        assert line.hear_signal() == (signal.SIGHUP, True)
        os.killpg(step.pid, signal.SIGCONT)
        assert line.hear_signal() == (signal.SIGCONT, True)
        line.say(*exited(0))
        assert step.wait(PATIENCE_S) == 0


def test_a_terminal_that_is_not_its_stdin_stays(agent, terminal):
    def take():
        import termios

        fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    step, _, _ = agent.enter(stdout=terminal, before=take)
    assert terminal_of(step.pid) != 0


# What it keeps open.


def test_it_holds_nothing_but_what_it_needs(fast, slurm_script):
    step, line, _ = fast.enter("/bin/sh", str(slurm_script()))
    line.say("warning", ("text", b""))
    kinds = sorted(name.partition(":")[0] for name in descriptors_of(step.pid).values())
    mine = ["/dev/null", "anon_inode", "pipe", "pipe", "pipe", "socket", str(slurm_script())]
    assert kinds == sorted(mine)


def test_its_messages_are_those_of_the_rest(checked):
    """What bridge.wire would not take, no agent would."""
    checked.start("/bin/sh", "x" * 100_000)
    line = checked.accept()
    payload, descriptors = wire.receive_payload(line.socket)
    line.descriptors = descriptors
    assert payload.split(b"\0")[0] == b"enter"
    line.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.socket.recv(1)
