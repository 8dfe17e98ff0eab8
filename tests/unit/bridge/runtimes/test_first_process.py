"""A process that is to become the init of a sandbox; here a shell that does, or does not."""

import contextlib
import os
import subprocess

import pytest

from bridge import kernel
from bridge.runtimes import first_process


@contextlib.contextmanager
def process_of(script):
    """Give a process that runs the script once a byte is written, and the file for that."""
    argv = ["bash", "-c", f"read -r -n1; {script}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as program:
        held = kernel.open_process(program.pid)
        try:
            yield held, program
        finally:
            os.close(held)
            program.kill()


def test_what_has_become_the_init_is_one():
    with process_of("exec -a /sbridge/init sleep 60") as (process, program):
        program.stdin.write(b"!")
        program.stdin.flush()
        first_process.await_init(process)
        assert kernel.read(process, "cmdline") == b"/sbridge/init\0" + b"60\0"


def test_what_ends_instead_never_becomes_it():
    with process_of("exit 1") as (process, program):
        program.stdin.write(b"!")
        program.stdin.flush()
        with pytest.raises(ProcessLookupError):
            first_process.await_init(process)


def test_what_never_becomes_it_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(first_process, "_TIMEOUT_S", 0.0)
    with process_of("true") as (process, _), pytest.raises(TimeoutError):
        first_process.await_init(process)
