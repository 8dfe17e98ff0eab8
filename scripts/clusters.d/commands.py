"""Outside commands, waiting, and the one kind of error that the person at the terminal sees."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLL_S = 0.02


class Failure(Exception):
    """Something that the person at the terminal must know; the message says it all."""


def call(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = 120.0
) -> str:
    """Run a command to its end and return what it printed; its failure is ours."""
    result = attempt(argv, environment, timeout_s)
    if result.returncode != 0:
        output = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise Failure(f"{shlex.join(argv)}: exit code {result.returncode}\n{output}")
    return result.stdout


def attempt(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a command whose failure may be an answer too."""
    try:
        return subprocess.run(  # noqa: PLW1510
            list(argv),
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except FileNotFoundError:
        raise Failure(f"{argv[0]}: not found.") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{shlex.join(argv)}: no answer within {timeout_s:g} s.") from None


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
