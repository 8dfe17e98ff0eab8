"""The script's interpreter inside the sandbox, and what stands in for a shell that it lacks."""

import os
from collections.abc import Callable
from typing import NoReturn

from bridge import stand_in

_SHELLS = (b"bash", b"sh", b"dash", b"ash", b"ksh", b"zsh")
_FALLBACK = b"/bin/sh"
_MOST_OF_A_LINE = 255  # of a script's first one; slurmstepd reads as much


def execute(
    argv: list[bytes], environment: dict[bytes, bytes], say: Callable[[bytes], None]
) -> NoReturn:
    """Become the interpreter; raises OSError when there is none. `say` takes words for the user."""
    if not _lacks_shell(argv, environment):
        try:
            os.execve(argv[0], argv, environment)
        except FileNotFoundError as error:
            if os.path.basename(argv[0]) not in _SHELLS or argv[0] == _FALLBACK:
                raise _missing(argv[0], error) from None
    fallback = _posix_shell(argv)
    named = b" ".join(argv[: len(argv) - len(fallback) + 1]) or argv[0]
    try:
        say(b"the image has no %s; using %s instead" % (named, _FALLBACK))
        os.execve(_FALLBACK, fallback, environment)
    except FileNotFoundError as error:
        raise _missing(argv[0] + b" and no " + _FALLBACK, error) from None


class TaskError(Exception):
    """A task's program cannot be executed; text and exit code are those of Slurm itself.

    `what` is the program, or says which interpreter it wants in vain.
    """

    def __init__(self, what: bytes, error: OSError) -> None:
        super().__init__(f"execve(): {os.fsdecode(what)}: {error.strerror}")
        self.exit_code = error.errno or 1


def execute_task(argv: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    """Become a task's program as slurmstepd does, which names it by what it found."""
    program = _built_path(argv[0], environment)
    try:
        os.execve(program, [program, *argv[1:]], environment)
    except FileNotFoundError as error:
        raise TaskError(_bad_interpreter(program) or program, error) from None
    except OSError as error:
        raise TaskError(program, error) from None


def _bad_interpreter(program: bytes) -> bytes:
    """Return what slurmstepd says of a script that is there; b"" where none is."""
    try:
        with open(program, "rb") as file:
            first, _, _ = file.read(_MOST_OF_A_LINE).partition(b"\n")
    except OSError:
        return b""
    return b"bad interpreter(%s)" % first[2:] if first.startswith(b"#!") else b""


def _built_path(program: bytes, environment: dict[bytes, bytes]) -> bytes:
    """Return what _build_path() of slurmstepd's task.c does (22.05 to 26.05).

    PATH comes before the working directory; what is not executable is found, too.
    """
    if program.startswith(b"/"):
        return program
    if program.startswith(b"."):
        return b"%s/%s" % (os.getcwdb(), program)
    for folder in filter(None, environment.get(b"PATH", b"").split(b":")):
        path = b"%s/%s" % (folder, program)
        if os.path.exists(path) and not os.path.isdir(path):
            return path
    return program


def _lacks_shell(argv: list[bytes], environment: dict[bytes, bytes]) -> bool:
    """Whether argv is `/usr/bin/env SHELL …` and the image lacks that shell."""
    if os.path.basename(argv[0]) != b"env" or len(argv) < 2 or argv[1] not in _SHELLS:
        return False
    return stand_in.find(argv[1], environment) is None


def _missing(what: bytes, error: OSError) -> OSError:
    text = f"the image has no {os.fsdecode(what)}; name an image with it, or another #! line"
    return OSError(error.errno, text)


def _posix_shell(argv: list[bytes]) -> list[bytes]:
    """Return argv for /bin/sh instead of a shell that the image lacks."""
    rest = argv[2:] if os.path.basename(argv[0]) == b"env" else argv[1:]
    if rest and rest[0].startswith(b"--"):
        rest = rest[1:]  # a bash-only option such as --login
    return [_FALLBACK, *rest]
