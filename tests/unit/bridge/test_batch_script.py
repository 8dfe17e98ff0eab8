"""Which argument is the batch script, how its interpreter line is split, and when it is idle."""

import os
import random

import pytest

from bridge import batch_script
from validator import header


@pytest.mark.parametrize(
    ("argv", "position"),
    [
        ([b"/bin/sh", b"/s/job1/slurm_script", b"slurm_script"], 1),
        ([b"/bin/bash", b"-l", b"/s/job1/slurm_script"], 2),
        ([b"/bin/bash", b"-l", b"x", b"/s/slurm_script"], None),
        ([b"/s/slurm_script"], None),
        ([b"/bin/sh", b"-c", b"id"], None),
    ],
)
def test_the_batch_script_is_the_first_argument_or_behind_an_option(argv, position):
    assert batch_script.position(argv) == position


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"/bin/bash", [b"/bin/bash"]),
        (b"/bin/bash -l", [b"/bin/bash", b"-l"]),
        (b"/usr/bin/env python3 -u", [b"/usr/bin/env", b"python3 -u"]),
        (b" /bin/sh ", [b"/bin/sh"]),
        (b"\t/bin/bash\t-l\t", [b"/bin/bash", b"-l"]),
        (b"/usr/bin/env \t python3\t-u", [b"/usr/bin/env", b"python3\t-u"]),
    ],
)
def test_the_interpreter_line_is_split_as_the_kernel_does(line, argv):
    assert batch_script.interpreter_argv(line) == argv


def has_command(make_file, content):
    descriptor = os.open(make_file("slurm_script", content), os.O_RDONLY)
    try:
        return batch_script.has_command(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"#!/bin/bash\n#SBATCH -n1\n\n \t\v\f\r\n  # x\n", False),
        (b"#!/bin/bash", False),
        (b"", False),
        (b"#!/bin/bash\n:", True),
        (b"#!/bin/bash\n# x\n  exit 3 # y\n", True),
        (b"#!/bin/bash\n\xc2\xa0\n", True),
    ],
)
def test_a_command_is_what_is_neither_blank_nor_comment(make_file, content, wanted):
    assert has_command(make_file, content) is wanted


def test_the_validator_calls_the_same_scripts_empty(make_file):
    dice = random.Random(7)
    seen = set()
    for _ in range(500):
        lines = dice.choices(["", "#x", " \t", "\v#", "\x85", "\x1c", "\0", "ls", "\u00a0"], k=2)
        script = "\n".join(["#!/bin/sh", *lines])
        seen.add(has_command(make_file, script.encode()))
        assert has_command(make_file, script.encode()) is header.read(script).has_body, repr(script)
    assert seen == {True, False}
