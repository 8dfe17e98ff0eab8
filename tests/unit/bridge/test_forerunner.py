"""The program before sbridge-run's Python tells it what was ignored when it was started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import forerunner, run

pytestmark = pytest.mark.skipif(
    forerunner.program("/x", "/y") is None, reason="no program for this processor"
)
TELL = """import os
import sys
print(sys._xoptions.get("ignored", "none"), sys.flags.isolated, sys.flags.no_site)
print(sys.argv[1:], os.environ.get("MINE"))
"""


@pytest.fixture
def put(tmp_path):
    """Write the program that runs a script by a Python; returns its path."""

    def put(text, python=sys.executable):
        script, program = tmp_path / "script.py", tmp_path / "program"
        script.write_text(text)
        program.write_bytes(forerunner.program(python, str(script)))
        program.chmod(0o755)
        return program

    return put


def started(program, *arguments, ignoring=()):
    def ignore():
        for number in forerunner.SIGNALS:
            how = signal.SIG_IGN if number in ignoring else signal.SIG_DFL
            signal.signal(number, how)

    return subprocess.run(
        [program, *arguments],
        preexec_fn=ignore,
        restore_signals=False,
        env={"MINE": "a=b"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("ignoring", "told"),
    [
        ((), "none"),
        ((signal.SIGPIPE,), "13"),
        ((signal.SIGXFSZ,), "25"),
        ((signal.SIGPIPE, signal.SIGXFSZ), "13,25"),
    ],
)
def test_python_is_told_what_was_ignored_and_starts_isolated(put, ignoring, told):
    ended = started(put(TELL), "-x", "a  b", "", "new\nline", ignoring=ignoring)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{told} 1 1\n['-x', 'a  b', '', 'new\\nline'] a=b\n"


def test_a_python_that_is_not_there_ends_as_slurm_ends_a_script_that_cannot_start(put):
    assert started(put(TELL, python="/no/such/python")).returncode == 2


def test_sbridge_run_goes_by_its_own_name():
    pid = os.fork()
    if pid == 0:
        run._take_name()
        os._exit(Path("/proc/self/comm").read_text() != "sbridge-run\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("told", "read"), [({}, set()), ({"ignored": "13"}, {13}), ({"ignored": "13,25,9"}, {13, 25})]
)
def test_sbridge_run_reads_what_it_is_told(monkeypatch, told, read):
    monkeypatch.setattr("sys._xoptions", told)
    assert run._ignored_before_python() == read


def test_a_signal_that_was_blocked_is_passed_on_all_the_same():
    """Where the script has it blocked, it waits there."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            os.kill(os.getpid(), signal.SIGUSR1)
            wakeup = run._catch_signals()
            os._exit(0 if os.read(wakeup, 1)[0] == signal.SIGUSR1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
