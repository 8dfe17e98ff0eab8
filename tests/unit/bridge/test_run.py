"""sbridge-run's own pieces; the whole of it is tested with real Slurm."""

import os
import signal
import socket

import pytest

from bridge import run


@pytest.mark.parametrize(
    ("interpreter", "rest", "argv"),
    [
        (b"/bin/bash", [b"s"], [b"/bin/bash", b"s"]),
        (b"/bin/bash -l", [b"s", b"a b"], [b"/bin/bash", b"-l", b"s", b"a b"]),
        (b"/usr/bin/env python3 -u", [b"s"], [b"/usr/bin/env", b"python3 -u", b"s"]),
        (b" /bin/sh ", [], [b"/bin/sh"]),
    ],
)
def test_the_interpreter_line_is_split_as_the_kernel_does(interpreter, rest, argv):
    assert run._interpreter_argv(interpreter, rest) == argv


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
            witness.start(one)
            # The witness must be listening: it is, once it has reported a signal of its own.
            os.kill(witness._pid, signal.SIGUSR2)
            while not witness.saw(signal.SIGUSR2):
                os.kill(witness._pid, signal.SIGUSR2)
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
