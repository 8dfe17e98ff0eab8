"""Submit a job file with sbatch, as its owner, and know what became of it.

What can become of it: sbatch accepted it (a job id), Slurm refused it (its words are for
the user), Slurm was not reached (nothing happened, try again later), or nobody knows
(`SubmissionDoubtful`: ask bridge.slurm.lookup for the tag before trying again).

Must run in a process that is the owner already (bridge.as_user).
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bridge import request
from bridge.as_user import User
from bridge.config import Slurm
from bridge.errors import PermanentError, TemporaryError
from bridge.request import SandboxRequest

_PATH = "/usr/local/bin:/usr/bin:/bin"
_MOST_TEXT = 4000
_MOST_OF_A_COMMENT = 1024  # bytes; slurmctld refuses jobs with longer ones
_JOB_ID = re.compile(r"(\d+)(?:;\S+)?")
_FAILED = "Batch job submission failed: "

# What libslurm says (slurm_errno.c of 22.05 to 25.11) when the request certainly did not
# become a job, through no fault of the user's.
_NOT_REACHED = (
    "Unable to contact slurm controller (connect failure)",
    "Communication connection failure",
    "Can't find an address, check slurm.conf",
    "stablish a configuration source",
    "Protocol authentication error",
    "Invalid authentication credential",
    "Authentication credential invalid",
    "Failed to connect to authentication agent",
    "Incompatible versions of client and server code",
    "standby mode",
    "Slurm job queue full",
    "Slurm temporarily unable to accept job",
    "Job creation temporarily disabled",
    "Unable to create job record, try again",
    "I/O error writing script/environment to file",
    "Unable to connect to database",
)
# When the request may have arrived and only the answer got lost.
_DOUBTFUL = (
    "Unable to contact slurm controller",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Unexpected message received",
    "Message send failure",
    "Message receive failure",
    "Communication shutdown failure",
    "Insane message length",
    "Header lengths are longer than data received",
    "Received zero length message",
    "Received message length < 0",
    "Failed to send entire message",
    "Unexpected missing socket error",
    "Connection reset by peer",
    "Connection timed out",
    "Broken pipe",
    "Resource temporarily unavailable",
    "Interrupted system call",
)


class SubmissionRefused(PermanentError):
    """Slurm said no; the text is sbatch's own, for the user to read."""


class SlurmNotReached(TemporaryError):
    """The submission certainly did not become a job, and may later."""


class SubmissionDoubtful(TemporaryError):
    """The submission may have become a job or not."""


@dataclass(frozen=True)
class Submission:
    """One job file on its way to Slurm.

    `file` is the job file's name as people may read it. `name` and `directory` are None when
    the file itself names them. `stdout` and `stderr` are sbatch's filename patterns.
    """

    script: bytes
    tag: str
    comment: str
    file: str
    name: str | None
    directory: str | None
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Accepted:
    """Slurm's yes; `messages` is what sbatch said besides, for the user."""

    job_id: int
    messages: str


def sbatch_argv(sbatch: Path, submission: Submission) -> list[str]:
    """Return sbatch's arguments; the script comes on stdin."""
    argv = [
        str(sbatch),
        "--parsable",
        f"--output={submission.stdout}",
        f"--error={submission.stderr}",
        f"--comment={tagged(submission.comment, submission.tag, submission.file)}",
    ]
    if submission.name is not None:
        argv.append(f"--job-name={submission.name}")
    if submission.directory is not None:
        argv.append(f"--chdir={submission.directory}")
    return argv


def tagged(comment: str, tag: str, file: str) -> str:
    """Return the user's comment with tag and file name in the request word at its end.

    The name is left out where the comment has no room for it: no submission may fail for it.
    (job_submit.lua leaves it out when it needs the room for the #K8S_ lines.)
    """
    try:
        asked = request.find(comment) or SandboxRequest()
    except PermanentError:
        asked = SandboxRequest()
    own = request.without_request(comment)
    whole = _joined(own, replace(asked, tag=tag, file=file))
    if len(os.fsencode(whole)) <= _MOST_OF_A_COMMENT:
        return whole
    return _joined(own, replace(asked, tag=tag, file=""))


def _joined(own: str, asked: SandboxRequest) -> str:
    return f"{own} {asked.word()}" if own else asked.word()


def sbatch_environment(user: User, settings: Slurm) -> dict[str, str]:
    """Return the whole environment of sbatch, which the job inherits: the user's alone."""
    conf = settings.conf or os.environ.get("SLURM_CONF", "")
    environment = {
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": user.shell or "/bin/sh",
        "PATH": _path(settings.bin_dir),
        "LANG": os.environ.get("LANG") or "C.UTF-8",
    }
    return environment | ({"SLURM_CONF": conf} if conf else {})


def _path(bin_dir: Path) -> str:
    return _PATH if str(bin_dir) in _PATH.split(":") else f"{bin_dir}:{_PATH}"


def submit(
    submission: Submission,
    user: User,
    settings: Slurm,
    *,
    timeout_s: float,
    kept_open: Sequence[int] = (),
) -> Accepted:
    """Run sbatch and return the job's id.

    sbatch also holds the descriptors `kept_open`, so that a lock tells whether it still
    runs. Raises `SubmissionRefused`, `SlurmNotReached` or `SubmissionDoubtful`.
    """
    argv = sbatch_argv(settings.bin_dir / "sbatch", submission)
    folder = user.home if os.access(user.home, os.X_OK) else "/"
    environment = sbatch_environment(user, settings)
    script = _in_memory(submission.script)
    try:
        process = _start(argv, environment, script, folder, kept_open)
    finally:
        os.close(script)
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise SubmissionDoubtful(f"sbatch did not end within {timeout_s:g} s") from None
    return _outcome(process.returncode, _text(stdout), _text(stderr))


def _in_memory(script: bytes) -> int:
    """Return a descriptor from which the script is read.

    A pipe would give sbatch half a script for a whole one if this process died in between.
    """
    descriptor = os.memfd_create("job-file")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(script)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _start(
    argv: list[str],
    environment: Mapping[str, str],
    script: int,
    folder: str,
    kept_open: Sequence[int],
) -> subprocess.Popen[bytes]:
    # Not bridge.command.run: the job inherits this environment, so nothing may be added to
    # it, and sbatch must hold the lock even when this process is gone.
    try:
        return subprocess.Popen(
            argv,
            stdin=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            pass_fds=kept_open,
        )
    except OSError as error:
        reason = f"{argv[0]} cannot be started: {error.strerror}"
        raise SlurmNotReached(reason, hint="slurm.bin_dir names the folder of sbatch.") from error


def _outcome(code: int, stdout: str, stderr: str) -> Accepted:
    if code == 0:
        match = _JOB_ID.fullmatch(stdout.strip())
        if not match:
            raise SubmissionDoubtful(f"sbatch ended well, but printed no job id: {stdout!r}")
        return Accepted(int(match[1]), stderr)
    if code < 0:
        raise SubmissionDoubtful(f"sbatch was ended by {signal.Signals(-code).name}")
    reason = _reason(stderr)
    if any(phrase in reason for phrase in _NOT_REACHED):
        raise SlurmNotReached(reason)
    if not reason or any(phrase in reason for phrase in _DOUBTFUL):
        raise SubmissionDoubtful(reason or f"sbatch ended with exit code {code} and no word")
    raise SubmissionRefused(stderr)


def _reason(stderr: str) -> str:
    """Return the part of sbatch's words that the user has no say in."""
    _, found, reason = stderr.rpartition(_FAILED)
    return reason.strip() if found else stderr


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")[-_MOST_TEXT:].strip()
