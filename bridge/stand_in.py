"""What runs in the place of a batch script that holds no command: the file of #K8S_SCRIPT.

The keeper's child becomes it, or sbridge-run where the job has no sandbox, by way of
`sbridge-stand-in`: as the job's user and where the job is, perhaps inside a sandbox's file
system. So this imports little, and nothing later.
"""

import errno
import os
import signal
import stat
import sys

NOT_RUNNABLE, NOT_FOUND = 126, 127  # a shell's exit codes

_INSIDE = "; inside an image there are its own files and your site's shared folders only"
_DEFAULT_PATH = b"/usr/bin:/bin"
_PROGRAM = b"\x7fELF"
_UTF8_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 4096
_BATCH_SCRIPT = b"slurm_script"
_BLANKS = b" \t"
_IGNORED_BY_PYTHON = {"SIGPIPE", "SIGXFSZ"}
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UnrunnableError(Exception):
    """The file of #K8S_SCRIPT cannot be run; the text is for the user, the exit code a shell's."""

    def __init__(self, file: bytes, reason: str, exit_code: int = NOT_RUNNABLE) -> None:
        text = f"K8S_SCRIPT={os.fsdecode(file)}: {reason}"
        super().__init__("".join(c if c.isprintable() else "?" for c in text))
        self.exit_code = exit_code


def main() -> int:
    """Run as `sbridge-stand-in IGNORED FILE INTERPRETER [ARGUMENT…]` and become what runs FILE.

    IGNORED names which of the signals that each Python ignores were ignored before. Returns the
    exit code.
    """
    ignored, file, *argv = map(os.fsencode, sys.argv[1:])
    with open("/proc/self/environ", "rb") as own:  # Python may have added to its own
        pairs = (entry.partition(b"=") for entry in own.read().split(b"\0"))
        environment = {key: value for key, equals, value in pairs if key and equals}
    try:
        argv = substitute(argv, file, environment)
        for name in _IGNORED_BY_PYTHON - {*os.fsdecode(ignored).split()}:
            signal.signal(signal.Signals[name], signal.SIG_DFL)
        os.execve(argv[0], argv, environment)
    except UnrunnableError as error:
        refusal = error
    except OSError as error:
        refusal = cannot_start(file, argv, error)
    try:
        os.write(2, os.fsencode(f"sbridge: {refusal}\n"))
    except OSError:
        pass  # the step has no stderr
    return refusal.exit_code


def substitute(
    argv: list[bytes], file: bytes, environment: dict[bytes, bytes], *, is_inside: bool = False
) -> list[bytes]:
    """Return the argv that runs `file` in the place of the batch script in `argv`.

    The file runs by its own #! line, executable or not (a NAS may know no such right); else
    by its suffix, `.py` or `.sh`; else by itself when it is a program. `is_inside`: the file
    system is a sandbox's. Raises `UnrunnableError`.
    """
    index = _position(argv)
    arguments = [] if index is None else argv[index + 1 :]
    try:
        return [*_interpreter(file, environment), file, *arguments]
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = f"{error.strerror}{_INSIDE if is_inside else ''}"
        raise UnrunnableError(file, reason, NOT_FOUND) from None


def cannot_start(file: bytes, argv: list[bytes], error: OSError) -> UnrunnableError:
    """Return why the kernel refused to execute `argv`, which `substitute` made for `file`."""
    code = NOT_FOUND if error.errno == errno.ENOENT else NOT_RUNNABLE
    reason = error.strerror or "cannot be started"
    if argv[0] != file:
        reason = f"its interpreter {os.fsdecode(argv[0])} cannot be started: {reason}"
    elif error.errno == errno.ENOENT:
        reason = "is a program whose loader is missing here; it was built for another system"
    return UnrunnableError(file, reason, code)


def find(program: bytes, environment: dict[bytes, bytes]) -> bytes | None:
    """Return where PATH has a program, None when nowhere."""
    for folder in environment.get(b"PATH", _DEFAULT_PATH).split(b":"):
        path = os.path.join(folder, program)
        if os.access(path, os.X_OK):
            return path
    return None


def _position(argv: list[bytes]) -> int | None:
    """Return which argument of an interpreter is the batch script, None when none is."""
    for index, argument in enumerate(argv[1:3], start=1):
        if argument.rpartition(b"/")[2] == _BATCH_SCRIPT:
            return index
    return None


def _interpreter_argv(line: bytes) -> list[bytes]:
    """Split "/bin/bash -l" as the kernel does: a program and at most one argument."""
    text = line.strip(_BLANKS)
    program = text.replace(b"\t", b" ").partition(b" ")[0]
    return [program, *filter(None, [text[len(program) :].lstrip(_BLANKS)])]


def _interpreter(file: bytes, environment: dict[bytes, bytes]) -> list[bytes]:
    head = _head(file)
    line = head[2:].partition(b"\n")[0] if head.startswith(b"#!") else b""
    suffix = os.path.splitext(file)[1].lower()
    _refuse_spoiled_text(file, head, line, suffix)
    if line.strip():
        return _interpreter_argv(line)
    if suffix == b".py":
        return [_python(file, environment)]
    if suffix == b".sh":
        return [b"/bin/sh"]
    if not head.startswith(_PROGRAM):
        reason = "begins with no #! line and is called neither .py nor .sh; begin it with #!/…"
        raise UnrunnableError(file, reason)
    if not os.access(file, os.X_OK):
        raise UnrunnableError(file, "is a program that may not be executed; chmod +x it")
    return []


def _refuse_spoiled_text(file: bytes, head: bytes, line: bytes, suffix: bytes) -> None:
    """Raise `UnrunnableError` for what Windows editors do to a script; Python's own copes."""
    if head.startswith(_UTF8_MARK) and suffix != b".py":
        reason = "begins with a byte order mark; save it as UTF-8 without BOM"
        raise UnrunnableError(file, reason)
    if line.endswith(b"\r") or (not line and suffix == b".sh" and b"\r\n" in head):
        raise UnrunnableError(file, "has Windows line ends (CR LF); save it with Unix ones (LF)")
    if b"\0" in line:
        raise UnrunnableError(file, "has a NUL byte in its #! line; type that line anew")


def _head(file: bytes) -> bytes:
    try:
        descriptor = os.open(file, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        raise  # what to say depends on where this is
    except OSError as error:
        raise UnrunnableError(file, error.strerror or "cannot be opened") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnrunnableError(file, "is not a file")
        return os.read(descriptor, _HEAD_BYTES)
    except OSError as error:
        raise UnrunnableError(file, error.strerror or "cannot be read") from None
    finally:
        os.close(descriptor)


def _python(file: bytes, environment: dict[bytes, bytes]) -> bytes:
    python = find(b"python3", environment)
    if python is None:
        raise UnrunnableError(file, "needs python3, which is in no folder of PATH", NOT_FOUND)
    return python
