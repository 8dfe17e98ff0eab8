"""What runs in the place of an idle batch script, and why it may not."""

import errno
import os
import re

import pytest

from bridge import stand_in
from bridge.stand_in import UnrunnableError

ENVIRONMENT = {b"PATH": b"/no/such:/usr/bin:/bin"}
ARGV = [b"/bin/bash", b"-l", b"/spool/job00001/slurm_script", b"a b", b""]


@pytest.mark.parametrize(
    ("name", "content", "mode", "interpreter"),
    [
        ("x", b"#!/bin/bash\n", 0o644, [b"/bin/bash"]),
        ("x", b"#! /bin/bash  -e -u \necho\n", 0o755, [b"/bin/bash", b"-e -u"]),
        ("x.py", b"#!/opt/conda/bin/python\n", 0o755, [b"/opt/conda/bin/python"]),
        ("x.py", b"import sys\n", 0o644, [b"/usr/bin/python3"]),
        ("x.PY", b"import sys\r\n", 0o777, [b"/usr/bin/python3"]),
        ("x.py", b"\xef\xbb\xbf#!/usr/bin/python3\r\n", 0o777, [b"/usr/bin/python3"]),
        ("x.py", b"", 0o644, [b"/usr/bin/python3"]),
        ("x.sh", b"echo\n", 0o644, [b"/bin/sh"]),
        ("x.sh", b"#!\necho\n", 0o644, [b"/bin/sh"]),
        ("program", b"\x7fELF\x02", 0o755, []),
    ],
)
def test_a_file_runs_by_its_own_line_else_by_its_kind(make_file, name, content, mode, interpreter):
    file = make_file(name, content, mode)
    found = stand_in.substitute(ARGV, file, ENVIRONMENT)
    assert found == [*interpreter, file, b"a b", b""]


@pytest.mark.parametrize(
    ("name", "content", "mode", "exit_code", "words"),
    [
        ("x", b"echo\n", 0o777, 126, "begins with no #! line"),
        ("x.R", b"print(1)\n", 0o644, 126, "begins with no #! line"),
        ("x.sh", b"#!/bin/sh\r\necho\r\n", 0o644, 126, "Windows line ends"),
        ("program", b"\x7fELF\x02", 0o644, 126, "chmod +x"),
        ("x.sh", b"echo hi\r\nif true; then\r\n", 0o644, 126, "Windows line ends"),
        ("x", b"\xef\xbb\xbf#!/bin/sh\necho\n", 0o755, 126, "byte order mark"),
        ("x.sh", b"\xef\xbb\xbfecho\n", 0o755, 126, "byte order mark"),
        ("x", b"#!/bin/sh\0x\necho\n", 0o755, 126, "NUL byte in its #! line"),
    ],
)
def test_what_cannot_run_is_said_with_a_shells_exit_code(
    make_file, name, content, mode, exit_code, words
):
    file = make_file(name, content, mode)
    with pytest.raises(UnrunnableError, match=words.replace("+", "[+]")) as caught:
        stand_in.substitute(ARGV, file, ENVIRONMENT)
    assert caught.value.exit_code == exit_code
    assert f"K8S_SCRIPT={os.fsdecode(file)}: " in str(caught.value)


@pytest.mark.parametrize(
    ("program", "number", "exit_code", "words"),
    [
        (b"/opt/python", errno.ENOENT, 127, "interpreter /opt/python cannot be started: No such"),
        (b"/opt/python", errno.EACCES, 126, "interpreter /opt/python cannot be started: Perm"),
        (b"/opt/a\nb", errno.ENOENT, 127, "interpreter /opt/a[?]b"),
        (b"/x", errno.ENOENT, 127, "is a program whose loader is missing here"),
        (b"/x", errno.EACCES, 126, "Permission denied"),
        (b"/x", errno.ENOEXEC, 126, "Exec format error"),
    ],
)
def test_what_the_kernel_refuses_has_a_shells_exit_code(program, number, exit_code, words):
    error = OSError(number, os.strerror(number))
    refusal = stand_in.cannot_start(b"/x", [program, b"/x"], error)
    assert refusal.exit_code == exit_code
    assert re.match(f"K8S_SCRIPT=/x: .*{words}", str(refusal))


@pytest.mark.parametrize("name", ["no.py", "file/no.py"])
@pytest.mark.parametrize("is_inside", [True, False])
def test_a_file_that_is_not_there_is_not_found(make_file, name, is_inside):
    file = os.path.join(os.path.dirname(make_file("file")), os.fsencode(name))
    with pytest.raises(UnrunnableError, match=r"No such file|Not a directory") as caught:
        stand_in.substitute(ARGV, file, ENVIRONMENT, is_inside=is_inside)
    assert caught.value.exit_code == 127
    assert ("inside an image" in str(caught.value)) is is_inside


def test_a_missing_python_is_named(make_file):
    with pytest.raises(UnrunnableError, match="python3") as caught:
        stand_in.substitute(ARGV, make_file("x.py"), {b"PATH": b"/no/such:/nor/this"})
    assert caught.value.exit_code == 127


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.sh")
    for path in (tmp_path, tmp_path / "pipe.sh"):
        with pytest.raises(UnrunnableError, match="not a file") as caught:
            stand_in.substitute(ARGV, os.fsencode(path), ENVIRONMENT)
        assert caught.value.exit_code == 126


def test_an_odd_name_makes_one_printable_line(tmp_path):
    file = os.fsencode(tmp_path) + b"/a\nsbridge: all is well\x1b[2J\xff"
    with pytest.raises(UnrunnableError) as caught:
        stand_in.substitute(ARGV, file, ENVIRONMENT)
    assert str(caught.value).isprintable()


def test_without_a_path_the_usual_folders_are_searched():
    assert stand_in.find(b"sh", {}) == b"/usr/bin/sh"
