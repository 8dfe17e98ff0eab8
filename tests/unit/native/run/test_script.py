"""What sbridge-run reads from its command line and from the script, told to an agent."""

import os
import random

import pytest

from bridge import task
from tests.unit.native.run.played_agent import ended
from validator import header


@pytest.fixture
def asked(checked):
    """Start sbridge-run and return what it asks for, with the content of its script if it is."""

    def ask(*argv, **options):
        checked.start(*argv, **options)
        line = checked.accept()
        message = line.hear(keeps=True)
        assert message.kind == "enter"
        script = None
        if message.first("script"):
            script = os.pread(line.descriptors[-1], 1 << 23, 0)
        assert len(line.descriptors) == len(message.every("fd")) + (script is not None)
        return message, script

    return ask


@pytest.mark.parametrize("argv", [(), ("--task=/",), (f"--task={task.quote('/a b')}",)])
def test_who_asks_for_nothing_is_told_the_usage(checked, argv):
    said = "sbridge: usage: sbridge-run INTERPRETER [SCRIPT [ARGUMENT...]]\n"
    assert ended(checked.start(*argv)) == (1, said)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"/bin/bash", [b"/bin/bash"]),
        (b"/bin/bash -l", [b"/bin/bash", b"-l"]),
        (b"/usr/bin/env python3 -u", [b"/usr/bin/env", b"python3 -u"]),
        (b" /bin/sh ", [b"/bin/sh"]),
        (b"\t/bin/bash\t-l\t", [b"/bin/bash", b"-l"]),
        (b"/usr/bin/env \t python3\t-u", [b"/usr/bin/env", b"python3\t-u"]),
        (b"/bin/sh \xff\xc3=", [b"/bin/sh", b"\xff\xc3="]),
        (b"--task", [b"--task"]),
        (b"--task=/=Z", [b"--task=/=Z"]),
        (b"--task=/=4", [b"--task=/=4"]),
        (b"--task=/=", [b"--task=/="]),
        (b" \t ", [b""]),
        (b"", [b""]),
    ],
)
def test_the_interpreter_line_is_split_as_the_kernel_does(asked, line, argv):
    message, _ = asked(line, b"/s/x", b"a b", b"", b"\xfe\n")
    assert message.every("arg") == [*argv, b"/s/x", b"a b", b"", b"\xfe\n"]
    assert message.every("task") == []


def test_the_kernel_itself_splits_the_line_so(checked, tmp_path):
    script = tmp_path / "script"
    script.write_bytes(b"#!%s /bin/bash -l \n" % os.fsencode(checked.program))
    script.chmod(0o755)
    checked.start("x y", executable=script)
    message = checked.accept().hear()
    assert message.every("arg") == [b"/bin/bash", b"-l", os.fsencode(script), b"x y"]


@pytest.mark.parametrize(
    "directory",
    ["/", "/a b/=c", "/뭐/\udcff\n\t'\"\\$", "relative", "/" + "=" * 3000, "/=41", "/%41,@+-_."],
)
def test_a_task_names_a_directory_in_plain_characters(asked, directory):
    argv = ["true", "--task=/x", "a  b", ""]
    message, script = asked(f"--task={task.quote(directory)}", *argv)
    assert message.every("cwd") == [os.fsencode(directory)]
    assert message.every("arg") == [argument.encode() for argument in argv]
    assert (message.every("task"), script) == ([b"1"], None)


def test_every_byte_of_a_directory_arrives(asked):
    directory = b"/" + bytes(range(1, 256))
    message, _ = asked(f"--task={task.quote(os.fsdecode(directory))}", "true")
    assert message.first("cwd") == directory


def test_a_task_without_a_directory_runs_where_it_was_started(asked, tmp_path):
    message, _ = asked("--task=", "true", cwd=tmp_path)
    assert message.every("cwd") == [os.fsencode(tmp_path)]


@pytest.mark.parametrize(
    ("argv", "is_opened"),
    [
        (["/bin/sh", "SCRIPT", "slurm_script"], True),
        (["/bin/bash -l", "SCRIPT", "x"], True),
        (["/bin/bash", "-l", "SCRIPT"], True),
        (["/bin/bash -l", "x", "SCRIPT"], False),
        (["SCRIPT"], False),
        (["/bin/sh -c", "id"], False),
        (["/bin/sh", "/no/such/slurm_script"], False),
        (["/bin/sh", "SCRIPT.sh"], False),
        (["--task=/", "/bin/sh", "SCRIPT"], False),
    ],
)
def test_only_the_batch_script_is_opened_for_the_keeper(asked, slurm_script, argv, is_opened):
    path = str(slurm_script(b"#!/bin/sh\necho mine\n"))
    _, script = asked(*[word.replace("SCRIPT", path) for word in argv])
    assert script == (b"#!/bin/sh\necho mine\n" if is_opened else None)


@pytest.fixture
def is_idle(fast, slurm_script):
    """Whether sbridge-run finds a script to be idle."""

    def ask(content):
        step = fast.start("/bin/sh", slurm_script(content))
        line = fast.accept()
        idle = line.hear().every("idle")
        line.say("failed", ("text", b"no"))
        ended(step)
        assert idle in ([], [b"1"])
        return idle == [b"1"]

    return ask


@pytest.mark.parametrize(
    ("content", "has_command"),
    [
        (b"#!/bin/bash\n#SBATCH -n1\n\n \t\v\f\r\n  # x\n", False),
        (b"#!/bin/bash", False),
        (b"", False),
        (b"#!/bin/bash\n:", True),
        (b"#!/bin/bash\n# x\n  exit 3 # y\n", True),
        (b"#!/bin/bash\n\xc2\xa0\n", True),
        (b"#!/bin/bash\n\0", True),
        (b"#" * 4_000_000, False),
        (b"#!/bin/sh\n" + b"# x\n" * 1_000_000, False),
        (b"#!/bin/sh\n" + b"\n" * 4_000_000 + b":", True),
        (b"#" + b"x" * ((1 << 16) - 1) + b"\n:", True),
        (b"#" + b"x" * ((1 << 16) - 2) + b"\n:", True),
    ],
    ids=lambda value: f"{repr(value)[:30]} {len(value)}" if isinstance(value, bytes) else None,
)
def test_a_command_is_what_is_neither_blank_nor_comment(is_idle, content, has_command):
    assert is_idle(content) is not has_command


def test_the_validator_calls_the_same_scripts_empty(is_idle):
    dice = random.Random(7)
    seen = set()
    for _ in range(300):
        lines = dice.choices(["", "#x", " \t", "\v#", "\x85", "\x1c", "\0", "ls", "\u00a0"], k=2)
        script = "\n".join(["#!/bin/sh", *lines])
        seen.add(is_idle(script.encode()))
        assert is_idle(script.encode()) is not header.read(script).has_body, repr(script)
    assert seen == {True, False}


def test_a_script_that_cannot_be_read_is_not_called_idle(checked, tmp_path):
    (tmp_path / "slurm_script").mkdir()
    checked.start("/bin/sh", tmp_path / "slurm_script")
    message = checked.accept().hear()
    assert (message.every("script"), message.every("idle")) == ([b"1"], [])


def test_a_large_script_arrives_whole(asked, slurm_script):
    content = b"#!/bin/sh\n: " + random.Random(3).randbytes(4_000_000)
    assert asked("/bin/sh", slurm_script(content))[1] == content
