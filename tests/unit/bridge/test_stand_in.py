"""What runs in the place of an idle batch script, and why it may not."""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import stand_in
from bridge.stand_in import UnrunnableError

ROOT = Path(__file__).resolve().parents[3]
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


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        ([b"/bin/sh", b"/s/job1/slurm_script", b"slurm_script"], [b"slurm_script"]),
        ([b"/bin/bash", b"-l", b"/s/job1/slurm_script"], []),
        ([b"/bin/bash", b"-l", b"x", b"/s/slurm_script", b"y"], []),
        ([b"/s/slurm_script", b"x"], []),
        ([b"/bin/sh", b"-c", b"id"], []),
    ],
)
def test_the_arguments_are_those_behind_the_batch_script(make_file, argv, arguments):
    file = make_file("x.sh")
    assert stand_in.substitute(argv, file, ENVIRONMENT) == [b"/bin/sh", file, *arguments]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"/bin/bash", [b"/bin/bash"]),
        (b"/usr/bin/env python3 -u", [b"/usr/bin/env", b"python3 -u"]),
        (b" /bin/sh ", [b"/bin/sh"]),
        (b"\t/bin/bash\t-l\t", [b"/bin/bash", b"-l"]),
        (b"/usr/bin/env \t python3\t-u", [b"/usr/bin/env", b"python3\t-u"]),
    ],
)
def test_a_files_own_line_is_split_as_the_kernel_does(make_file, line, argv):
    file = make_file("x", b"#!" + line + b"\n")
    assert stand_in.substitute([b"/bin/sh"], file, {}) == [*argv, file]


@pytest.fixture
def become(tmp_path):
    """Start Python as sbridge-stand-in does; returns its exit code, stdout and stderr."""
    program = tmp_path / "sbridge-stand-in"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from bridge.stand_in import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)

    def become(*argv, pairs=(b"PATH=/usr/bin:/bin",), before=lambda: None):
        vectors = [
            (ctypes.c_char_p * (len(words) + 1))(*words, None)
            for words in ([b"sbridge-stand-in", *argv], pairs)
        ]

        def execute():
            before()
            ctypes.CDLL(None).execve(os.fsencode(program), *vectors)
            os._exit(99)

        done = subprocess.run(
            [program], preexec_fn=execute, capture_output=True, timeout=20, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return become


SCRIPT = b"/s/job1/slurm_script"


def test_the_file_runs_with_the_arguments_of_the_script(become, make_file):
    file = make_file("x", b'#!/bin/sh -e\nprintf "%s|" "$0" "$@"\nfalse\n')
    words = (b"", file, b"/bin/bash", b"-l", SCRIPT, b"a b", b"", b"\xff")
    assert become(*words) == (1, file + b"|a b||\xff|", b"")


def test_the_file_gets_exactly_the_environment(become, make_file):
    """Python adds to its own: LC_CTYPE, in the C locale."""
    pairs = [b"PATH=/usr/bin", b"LC_ALL=C", b"\xff=\xfe", b"A=b=c", b"EMPTY=", b"LINES=a\nb"]
    file = make_file("x", b"#!/usr/bin/cat\n")
    _, out, err = become(b"", file, b"/bin/sh", SCRIPT, b"/proc/self/environ", pairs=pairs)
    assert (out.removeprefix(b"#!/usr/bin/cat\n"), err) == (b"".join(p + b"\0" for p in pairs), b"")


@pytest.mark.parametrize("odd", [b"no pair", b"=odd", b"=", b""])
def test_odd_entries_of_the_environment_are_borne(become, make_file, odd):
    file = make_file("x.sh", b"echo $MINE")
    assert become(b"", file, b"/bin/sh", pairs=[odd, b"MINE=a"]) == (0, b"a\n", b"")


@pytest.mark.parametrize(
    "ignored", [(), ("SIGPIPE",), ("SIGXFSZ",), ("SIGPIPE", "SIGXFSZ"), ("SIGHUP", "SIGPIPE")]
)
def test_what_was_ignored_before_is_ignored_in_the_file(become, make_file, ignored):
    numbers = [signal.Signals[name] for name in ignored]

    def ignore():
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *numbers):
            signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)

    file = make_file("x.sh", b"grep SigIgn /proc/self/status")
    told = " ".join(name for name in ignored if name != "SIGHUP").encode()
    _, out, _ = become(told, file, b"/bin/sh", before=ignore)
    assert int(out.split()[1], 16) == sum(1 << number - 1 for number in numbers)


def test_a_file_that_does_not_start_ends_like_a_shell(become, make_file, unstartable):
    content, exit_code, words = unstartable
    file = make_file("bash", content, 0o755)  # a name is no reason to try another shell
    code, _, said = become(b"", file, b"/bin/sh", SCRIPT)
    assert code == exit_code
    assert said.decode().startswith(f"sbridge: K8S_SCRIPT={os.fsdecode(file)}: ")
    assert words in said.decode()


def test_without_a_stderr_it_ends_with_the_same_code(become):
    assert become(b"", b"/no/such.py", b"/bin/sh", before=lambda: os.close(2)) == (127, b"", b"")
