"""What the keeper's child does at the end, without a sandbox: here nothing is entered."""

import errno
import os
import select
import socket
import threading
from types import SimpleNamespace

import pytest

from bridge import stand_in, wire
from bridge.agent import keeper
from bridge.agent.script_process import ScriptProcess

SCRIPT = b"/spool/job00001/slurm_script"


def child(file=b"", argv=(b"/bin/sh", SCRIPT)):
    """Return a child that is about to become its script, and what it says."""
    made = object.__new__(ScriptProcess)
    made._argv = list(argv)
    made._file = file
    made._is_task = False
    made._environment = {b"PATH": b"/usr/bin"}
    said = []
    made._say = said.append
    return made, said


@pytest.fixture
def started(monkeypatch):
    """Collect what is executed, except what the kernel would not find or start."""
    argvs = []

    def execve(path, argv, environment):
        argvs.append(argv)
        if os.fork() == 0:
            try:
                real(path, argv, environment)
            except OSError as error:
                os._exit(error.errno)
        status = os.waitstatus_to_exitcode(os.wait()[1])
        if status:
            raise OSError(status, os.strerror(status))
        raise SystemExit

    real = os.execve
    monkeypatch.setattr(os, "execve", execve)
    return argvs


@pytest.mark.parametrize("name", ["bash", "env", "x"])
def test_a_program_without_its_loader_is_no_shell_that_the_image_lacks(
    tmp_path, started, program_without_loader, name
):
    file = tmp_path / name
    file.write_bytes(program_without_loader)
    file.chmod(0o755)
    made, said = child(os.fsencode(file), (b"/bin/sh", SCRIPT, b"bash"))
    with pytest.raises(stand_in.UnrunnableError, match="loader is missing") as caught:
        made._exec()
    assert caught.value.exit_code == 127
    assert started == [[os.fsencode(file), b"bash"]]
    assert said == []


def test_a_file_whose_interpreter_the_image_lacks_ends_like_in_a_shell(tmp_path, started):
    file = tmp_path / "x"
    file.write_bytes(b"#!/no/such/python\n")
    made, _ = child(os.fsencode(file))
    with pytest.raises(stand_in.UnrunnableError, match="the image has no /no/such") as caught:
        made._exec()
    assert caught.value.exit_code == 127


def test_a_file_whose_shell_the_image_lacks_runs_with_sh(tmp_path, started):
    file = tmp_path / "x"
    file.write_bytes(b"#!/no/such/bash\n")
    made, said = child(os.fsencode(file))
    with pytest.raises(SystemExit):
        made._exec()
    assert started[-1] == [b"/bin/sh", os.fsencode(file)]
    assert said == [b"the image has no /no/such/bash; using /bin/sh instead"]


def test_a_batch_script_keeps_the_kernels_own_word(started):
    made, _ = child(argv=(b"/no/such/python", SCRIPT))
    with pytest.raises(FileNotFoundError, match="the image has no /no/such/python"):
        made._exec()


def test_a_file_that_is_not_inside_is_said_to_be_looked_for_there(started):
    made, _ = child(b"/no/such/x.py")
    with pytest.raises(stand_in.UnrunnableError, match="inside an image"):
        made._exec()


def keeper_of(script, target):
    """Return a keeper that has the batch script `script` to show at `target`."""
    message = wire.Message("enter", [("uid", b"%d" % os.getuid()), ("script_copy", target)])
    connection = socket.socket()
    entry = keeper.Entry(message, connection, -1, -1, os.open(script, os.O_RDONLY), [])
    return keeper._Keeper(entry)


def test_the_batch_script_is_copied_to_where_the_sandbox_shows_it(tmp_path):
    script = tmp_path / "script"
    script.write_bytes(b"#!/bin/sh\n" * 9)
    made = keeper_of(script, os.fsencode(tmp_path / "copy"))
    with made._connection:
        made._spool_script()
    assert (tmp_path / "copy").read_bytes() == script.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "script"]


@pytest.mark.parametrize("call", ["write", "fchown", "rename"])
def test_a_copy_of_the_batch_script_that_fails_leaves_nothing(tmp_path, monkeypatch, call):
    script = tmp_path / "script"
    script.write_bytes(b"#!/bin/sh\n")
    made = keeper_of(script, os.fsencode(tmp_path / "copy"))

    def fail(*arguments):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, call, fail)
    with made._connection, pytest.raises(OSError, match="quota"):
        made._spool_script()
    assert list(tmp_path.iterdir()) == [script]


def test_a_watched_process_that_is_over_is_not_looked_at_again_and_again():
    """Whatever else its descriptor has to tell: here a byte that nobody reads."""
    here, there = socket.socketpair()
    entry = keeper.Entry(wire.Message("enter", []), here, -1, -1, None, [])
    made = keeper._Keeper(entry)
    looks, told = os.pipe(), []
    os.write(looks[1], b"!")
    os.close(looks[1])
    wakeup, writer = os.pipe()
    trouble, trouble_writer = os.pipe()
    made._stops = SimpleNamespace(descriptor=looks[0], saw_stop=lambda: told.append(1) and False)
    made._has_ended = lambda *_: True
    made._kill_everything = None  # there is no script
    door = SimpleNamespace(collect=lambda: None, serve=lambda _: None)
    timer = threading.Timer(0.2, os.write, (writer, b"!"))
    timer.start()
    with here, there:
        made._hold(select.poll(), door, wakeup, trouble)
    timer.join()
    for descriptor in (looks[0], wakeup, writer, trouble, trouble_writer):
        os.close(descriptor)
    assert len(told) == 1
