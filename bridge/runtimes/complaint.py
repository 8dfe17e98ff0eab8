"""What podman says when it fails: prose that an image, a registry or a path may have written.

So it never tells that a node is at fault. The most it does is to have a job wait.
"""

import re

from bridge.errors import CommandError
from bridge.results.trouble import printable

_LONGEST = 400
_LOG_LINE = re.compile(r'time="[^"]*" level=\w+ msg="?(.*?)"?$')
_COUNT = re.compile(r"failed to start \d+ containers")
_PREFIX = re.compile(r"(?:Error: )?(?:starting container [0-9a-f]{64}: )?")

_PASSING = re.compile(
    # the registry, or the way to it
    r"connection refused|i/o timeout|TLS handshake timeout|connection reset|network is unreachable"
    r"|no route to host|server misbehaving|temporary failure|toomanyrequests|50[0234] |EOF$"
    r"|context deadline exceeded"
    # the node, while many images are pulled; what stays is found by looking at the node
    r"|no space left on device|disk quota exceeded|input/output error|cannot allocate memory"
    r"|too many open files|database is locked|no logs from conmon",
    re.IGNORECASE,
)


def may_pass(error: CommandError) -> bool:
    """Whether the same command may do better a little later."""
    ended_by_itself = error.exit_code is not None and error.exit_code >= 0
    return not ended_by_itself or _PASSING.search(error.stderr_tail) is not None


def reason(error: CommandError) -> str:
    """Return why the command failed, on one short printable line."""
    return telling(error.stderr_tail) or printable(str(error))


def telling(stderr: str) -> str:
    """Return the lines that say why as one; the others only when there is nothing else."""
    lines = [_PREFIX.sub("", line.strip(), count=1) for line in stderr.split("\n")]
    lines = [line for line in lines if line]
    kept = [line for line in lines if not (_LOG_LINE.match(line) or _COUNT.fullmatch(line))]
    kept = kept or [_LOG_LINE.sub(r"\1", line) for line in lines]
    return shortened("; ".join(printable(line) for line in kept))


def shortened(text: str) -> str:
    """Cut the middle out: the begin says what failed, the end why."""
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 3) // 2
    return f"{text[:half]} … {text[-half:]}"
