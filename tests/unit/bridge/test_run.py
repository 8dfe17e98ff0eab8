"""sbridge-run's own pieces; the whole of it is tested with real Slurm."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bridge import batch_script, run, wire

ROOT = Path(__file__).resolve().parents[3]


def test_only_the_batch_script_is_opened_for_the_keeper(tmp_path):
    script = tmp_path / "slurm_script"
    script.write_text("#!/bin/sh\n")
    descriptor = run._open_script([b"/bin/sh", os.fsencode(script)])
    assert descriptor is not None
    assert os.read(descriptor, 9) == b"#!/bin/sh"
    os.close(descriptor)
    other = tmp_path / "other.sh"
    other.write_text("")
    assert run._open_script([b"/bin/sh", os.fsencode(other)]) is None
    assert run._open_script([b"/bin/sh", os.fsencode(tmp_path / "no" / "slurm_script")]) is None


def in_own_group(action):
    """Run `action` in a forked child that leads a process group; return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os._exit(action())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("whole_group", "code"), [(False, 10), (True, 11)])
def test_the_witness_tells_a_signal_for_the_group_from_one_for_the_shell(whole_group, code):
    def action():
        wakeup = run._catch_signals()
        one, other = socket.socketpair()
        with one, other:
            witness = run.Witness()
            witness.start(one, [])
            # The witness must be listening: it is, once it has reported a signal of its own.
            os.kill(witness.pid, signal.SIGUSR2)
            while not witness.saw(signal.SIGUSR2):
                os.kill(witness.pid, signal.SIGUSR2)
            os.kill(-os.getpgid(0) if whole_group else os.getpid(), signal.SIGUSR1)
            assert signal.SIGUSR1 in os.read(wakeup, 64)
            code = 11 if witness.saw(signal.SIGUSR1) else 10
            witness.dismiss()
            witness.dismiss()
            return code

    assert in_own_group(action) == code


def test_outside_a_job_it_says_so(capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sbridge-run", "/bin/sh"])
    monkeypatch.setattr(run, "_environment", lambda: {b"PATH": b"/bin"})
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert run.main("/nowhere") == 1
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "not inside a Slurm job" in capfd.readouterr().err


SCRIPT = b"/spool/job00001/slurm_script"


@pytest.fixture
def become(monkeypatch, tmp_path):
    """Obey an agent that says `exec`; return the exit code, or what was to be executed."""

    def become(*fields, argv=("/bin/bash -l", SCRIPT, "a b")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["sbridge-run", *map(os.fsdecode, argv)])
        monkeypatch.setattr(run.posix, "execve", lambda *all_of_it: done.append(all_of_it))
        monkeypatch.setattr(run.signal, "signal", lambda *_: None)
        done = []
        step = run.Step(b"/nowhere", {b"PATH": b"/usr/bin", b"K8S_SCRIPT": b"/mine"})
        code = step._become(wire.Message("exec", list(fields)))
        return done[0] if done else code

    return become


def test_a_step_without_a_sandbox_becomes_its_interpreter(become):
    program, argv, environment = become(("env", b"A=b=c"))
    assert (program, argv) == (b"/bin/bash", [b"/bin/bash", b"-l", SCRIPT, b"a b"])
    assert environment == {b"PATH": b"/usr/bin", b"K8S_SCRIPT": b"/mine", b"A": b"b=c"}


def test_a_step_becomes_the_file_that_the_agent_names(become, tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import sys\n")
    named = os.fsencode(file)
    program, argv, environment = become(("env", b"K8S_SCRIPT=" + named), ("file", named))
    assert (program, argv) == (b"/usr/bin/python3", [b"/usr/bin/python3", named, b"a b"])
    assert environment[b"K8S_SCRIPT"] == named


def test_a_file_that_is_not_there_ends_the_step_like_a_shell(become, capfd):
    assert become(("file", b"/no/such.py")) == 127
    assert capfd.readouterr().err.startswith("sbridge: K8S_SCRIPT=/no/such.py: No such file")


@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [
        (b"#!/no/such/python\n", 127, "interpreter /no/such/python cannot be started: No such"),
        (b"#!/etc/passwd\n", 126, "interpreter /etc/passwd cannot be started: Permission denied"),
        (b"#!/bin/sh\0x\n", 126, "NUL byte"),
        (b"\x7fELFgarbage", 126, "Exec format error"),
        (None, 127, "loader is missing"),
    ],
)
def test_a_file_that_does_not_start_ends_the_step_like_a_shell(
    tmp_path, capfd, monkeypatch, program_without_loader, content, exit_code, words
):
    file = tmp_path / "bash"  # a name is no reason to try another shell
    file.write_bytes(program_without_loader if content is None else content)
    file.chmod(0o755)
    monkeypatch.setattr("sys.argv", ["sbridge-run", "/bin/sh", os.fsdecode(SCRIPT)])
    answer = wire.Message("exec", [("file", os.fsencode(file))])

    def action():
        return run.Step(b"/nowhere", {b"PATH": b"/usr/bin"})._become(answer)

    assert in_own_group(action) == exit_code
    said = capfd.readouterr().err
    assert said.startswith(f"sbridge: K8S_SCRIPT={file}: ")
    assert words in said


def test_a_step_without_a_sandbox_goes_to_its_working_directory(become, tmp_path, capfd):
    (tmp_path / "there").mkdir()
    become(("cwd", os.fsencode(tmp_path / "there")))
    assert os.getcwd() == str(tmp_path / "there")
    become(("cwd", b"/no/such"))
    said = f"sbridge: working directory /no/such: No such file or directory; using {tmp_path}\n"
    assert (os.getcwd(), capfd.readouterr().err) == (str(tmp_path), said)


@pytest.fixture
def agents(monkeypatch, tmp_path):
    """Have sbridge-run talk to agents that do, one after the other, what they are given for."""

    def run_with(*agents, script=b"#!/bin/sh\necho\n"):
        path = tmp_path / "slurm_script"
        path.write_bytes(script)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen()

        def serve():
            for agent in agents:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    break  # nobody asks any more
                with connection:
                    agent(connection)
            listener.close()

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setattr("sys.argv", ["sbridge-run", "/bin/sh", str(path)])
        monkeypatch.setattr(run, "_RETRY_S", 0.01)
        monkeypatch.setattr(run, "_inherited_descriptors", list)
        environment = {b"BIG": b"x" * 1_000_000}
        code = run.Step(os.fsencode(tmp_path / "agent.sock"), environment).run()
        with contextlib.suppress(OSError):  # all agents had their turn
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        return code

    return run_with


def saying(kind, text):
    """An agent that answers without having read anything."""

    def agent(connection):
        wire.send(connection, wire.Message(kind, [("text", text), ("exit_code", b"3")]))

    return agent


def test_an_agent_that_would_not_even_listen_is_heard(agents, capfd):
    assert agents(saying("failed", b"too long a command line")) == 3
    assert "sbridge: too long a command line\n" in capfd.readouterr().err


def test_a_busy_agent_is_asked_again(agents, capfd):
    assert agents(saying("busy", b"full"), saying("busy", b"full"), saying("failed", b"no")) == 3
    said = capfd.readouterr().err.splitlines()
    assert said == ["sbridge: full; waiting for the sbridge agent of this node", "sbridge: no"]


def test_agents_that_never_answer_are_not_asked_for_ever(agents, capfd, monkeypatch):
    monkeypatch.setattr(run, "AGENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(run, "_RETRY_S", 0.05)

    asked = []
    assert agents(*[asked.append] * 40) == 1
    assert len(asked) < 40
    assert "no sbridge agent answers" in capfd.readouterr().err


def test_an_agent_that_says_something_gets_the_whole_time_again(agents, capfd, monkeypatch):
    monkeypatch.setattr(run, "AGENT_TIMEOUT_S", 0.4)

    def pulling(connection):
        time.sleep(0.3)
        wire.send(connection, wire.Message("waiting", [("text", b"pulling")]))

    assert agents(pulling, pulling, pulling, saying("failed", b"no")) == 3


def test_the_script_is_read_before_an_agent_is_kept_waiting(agents, monkeypatch):
    connected = []
    read = batch_script.has_command
    monkeypatch.setattr(
        batch_script, "has_command", lambda script: connected.append(False) or read(script)
    )

    def agent(connection):
        connected.append(True)
        saying("failed", b"no")(connection)

    agents(agent)
    assert connected == [False, True]


def test_a_signal_that_comes_too_late_does_not_hide_how_the_script_ended(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sbridge-run", "/bin/sh"])
    step = run.Step(b"/nowhere", {})
    monkeypatch.setattr(run.Witness, "saw", lambda *_: False)
    ours, keepers = socket.socketpair()
    wire.send(keepers, wire.Message("exited", [("status", b"%d" % (3 << 8))]))
    keepers.close()
    wakeup, writer = os.pipe()
    os.write(writer, bytes([signal.SIGUSR1]))
    with ours:
        assert step._pass_signals_on(ours, wakeup) == 3
    os.close(wakeup)
    os.close(writer)


def test_a_step_imports_nothing_that_few_steps_need():
    """Each task of a step starts an interpreter: `os` alone is a tenth of that."""
    words = "from bridge.run import main; main('/nowhere')"
    show = "print({'os', 'bridge.stand_in', '_collections_abc'} & {*sys.modules})"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = ['--task=/', 'x']"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"{code}; {words}; {show}"],
        env={"SLURM_JOB_ID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
