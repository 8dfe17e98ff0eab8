import os
import threading
import time
from pathlib import Path

import pytest

from bridge import command
from bridge.errors import CommandError


def sh(script: str, **options: object) -> command.Completed:
    return command.run(["/bin/sh", "-c", script], timeout_s=5, **options)  # type: ignore[arg-type]


def failure(argv: list[str], timeout_s: float = 5) -> CommandError:
    with pytest.raises(CommandError) as caught:
        command.run(argv, timeout_s=timeout_s)
    return caught.value


def test_what_a_command_prints_is_returned() -> None:
    assert sh("echo out; echo err >&2") == command.Completed("out\n", "err\n")


def test_bytes_that_are_no_utf8_do_not_break_it() -> None:
    assert sh("printf 'a\\377b'").stdout == "a\ufffdb"


def test_stdin_is_empty_unless_given() -> None:
    assert sh("cat").stdout == ""
    assert sh("cat", stdin=b"x" * 200_000).stdout == "x" * 200_000


def test_the_environment_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    monkeypatch.setenv("SLURM_CONF", "/x/slurm.conf")
    printed = command.run(["/usr/bin/env"], timeout_s=5, environment={"A": "b"}).stdout
    variables = dict(line.split("=", 1) for line in printed.splitlines())
    assert "SECRET" not in variables
    assert variables["LC_ALL"] == "C.UTF-8"
    assert variables["SLURM_CONF"] == "/x/slurm.conf"
    assert variables["A"] == "b"
    assert variables["PATH"]


def test_a_failure_tells_code_and_the_end_of_stderr() -> None:
    error = failure(["/bin/sh", "-c", "echo useless; echo 'the reason' >&2; exit 3"])
    assert error.exit_code == 3
    assert error.message == "/bin/sh ended with exit code 3: the reason"
    assert error.argv[0] == "/bin/sh"


def test_a_long_stderr_is_cut_to_its_end() -> None:
    error = failure(["/bin/sh", "-c", "yes fill | head -c 100000 >&2; echo last >&2; exit 1"])
    assert error.stderr_tail.endswith("last")
    assert len(error.stderr_tail) <= 2000


def test_death_by_a_signal_is_told_by_name() -> None:
    error = failure(["/bin/sh", "-c", "kill -TERM $$"])
    assert error.exit_code == -15
    assert "was ended by SIGTERM" in error.message


def test_death_by_a_signal_that_has_no_name_is_told_by_number() -> None:
    error = failure(["/bin/sh", "-c", "kill -40 $$"])
    assert error.exit_code == -40
    assert "was ended by signal 40" in error.message


def test_a_program_that_is_not_there_is_told() -> None:
    error = failure(["/nowhere/program"])
    assert error.exit_code is None
    assert error.message == "/nowhere/program cannot be started (No such file or directory)"


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    script = f"(echo $BASHPID; exec sleep 60) & echo $! > {marker}; echo so far >&2; wait"
    began = time.monotonic()
    error = failure(["/bin/bash", "-c", script], timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert error.exit_code is None
    assert error.message == "/bin/bash did not end within 0.5 s: so far"
    child = int(marker.read_text())
    deadline = time.monotonic() + 5
    while _is_alive(child):
        assert time.monotonic() < deadline, "the command's child lives on"
        time.sleep(0.01)


def test_a_command_that_left_a_daemon_behind_holding_stdout_is_ended_in_time() -> None:
    began = time.monotonic()
    failure(["/bin/sh", "-c", "sleep 60 & exit 0"], timeout_s=0.5)
    assert time.monotonic() - began < 5


def test_a_daemon_in_a_session_of_its_own_that_holds_stdout_does_not_block_us() -> None:
    began = time.monotonic()
    error = failure(["/bin/sh", "-c", "echo hint >&2; setsid sleep 7 & exit 0"], timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert error.message == "/bin/sh did not end within 0.5 s: hint"


def test_a_command_is_ended_soon_after_it_is_cancelled() -> None:
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(CommandError, match="was cancelled"):
        command.run(["/bin/sleep", "60"], timeout_s=60, cancelled=cancelled)
    assert time.monotonic() - began < 5


def test_a_command_that_may_be_cancelled_gets_all_of_its_stdin() -> None:
    done = command.run(
        ["/bin/sh", "-c", "sleep 1; cat"],
        timeout_s=10,
        stdin=b"x" * 200_000,
        cancelled=threading.Event(),
    )
    assert done.stdout == "x" * 200_000


def test_a_command_that_may_be_cancelled_still_has_its_time_limit() -> None:
    with pytest.raises(CommandError, match=r"did not end within 0\.3 s"):
        command.run(["/bin/sleep", "60"], timeout_s=0.3, cancelled=threading.Event())


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_base_environment_holds_no_more_than_it_must() -> None:
    allowed = {"PATH", "LC_ALL", "SLURM_CONF", "TZ"}
    assert set(command.base_environment()) <= allowed
    assert os.environ.get("HOME") is None or "HOME" not in command.base_environment()
