"""The batch script: which argument of its interpreter it is, and whether it holds a command.

For sbridge-run, so it imports nothing: each start of it would pay.
"""

NAME = b"slurm_script"

_BLANKS = b" \t"


def position(argv: list[bytes]) -> int | None:
    """Return which argument of an interpreter is the batch script, None when none is."""
    for index, argument in enumerate(argv[1:3], start=1):
        if argument.rpartition(b"/")[2] == NAME:
            return index
    return None


def has_command(script: int) -> bool:
    """Whether the open script has a line that is neither blank nor a comment."""
    with open(script, "rb", closefd=False) as file:
        return any(line.strip()[:1] not in (b"", b"#") for line in file)


def interpreter_argv(line: bytes) -> list[bytes]:
    """Split "/bin/bash -l" as the kernel does: a program and at most one argument."""
    text = line.strip(_BLANKS)
    program = text.replace(b"\t", b" ").partition(b" ")[0]
    return [program, *filter(None, [text[len(program) :].lstrip(_BLANKS)])]
