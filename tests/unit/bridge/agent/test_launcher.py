"""The program before the shim: a shell's script, with signals as by default, or a reason."""

import os
import signal
import subprocess

import pytest

from bridge.agent import launcher

pytestmark = pytest.mark.skipif(
    launcher.program("/x", (), "x") is None, reason="no program for this processor"
)


@pytest.fixture
def put(tmp_path):
    """Write a script and the program before it; returns the program's path."""

    def put(script, *signals, folder=tmp_path):
        path = folder / "script"
        path.write_text(script)
        program = folder / "program"
        program.write_bytes(launcher.program(str(path), signals, "no shell here\n"))
        program.chmod(0o755)
        return program

    return put


def ignoring_both():
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def test_the_script_has_the_programs_arguments_and_environment(put):
    program = put('printf \'[%s]\' "$0" "$@" "$MINE"')
    argv = [program, "a  b", "", "$x", "new\nline"]
    ended = subprocess.run(argv, env={"MINE": "yes"}, capture_output=True, text=True, check=True)
    script = program.with_name("script")
    assert ended.stdout == f"[{script}][a  b][][$x][new\nline][yes]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_signals_that_were_ignored_can_be_caught(put, number):
    name = number.name.removeprefix("SIG")
    program = put(f"trap 'echo caught' {name}; kill -{name} $$; echo end", number)
    argv = [program]
    ended = subprocess.run(
        argv, preexec_fn=ignoring_both, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "caught\nend\n"


def test_other_signals_stay_ignored(put):
    program = put("kill -QUIT $$; echo end", signal.SIGINT)
    argv = [program]
    ended = subprocess.run(
        argv, preexec_fn=ignoring_both, capture_output=True, text=True, check=False
    )
    assert ended.stdout == "end\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")
def test_where_there_is_no_shell_it_says_so(put, tmp_path):
    put("echo never")
    argv = ["/program"]
    ended = subprocess.run(
        argv, preexec_fn=lambda: os.chroot(tmp_path), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (127, "", "no shell here\n")
