"""Look at a dropped file as its owner: open it safely, read it, judge it.

Nothing is followed, nothing is trusted: the file must be regular, have one name only and
belong to the user that this process is. What was read here is what is submitted.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from bridge.as_user import User
from validator import job_file
from validator.findings import Finding, error, warning
from validator.job_file import JobFile
from validator.limits import Limits

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Inspection:
    """A job file's content and what is to be said about it, errors first."""

    content: bytes
    findings: tuple[Finding, ...]
    job_file: JobFile

    @property
    def is_acceptable(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def digest(self) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


def entry_finding(status: os.stat_result) -> Finding | None:
    """Return why what lies there is no job file, None when it may be one."""
    if stat.S_ISDIR(status.st_mode):
        return error("is_directory")
    if stat.S_ISLNK(status.st_mode):
        return error("is_symlink")
    if not stat.S_ISREG(status.st_mode):
        return error("is_special")
    return error("hard_linked") if status.st_nlink > 1 else None


def inspect(path: Path, owner: User, limits: Limits, results: Path) -> Inspection:
    """Read and judge the file; `results` is named where the user's own output goes.

    Raises `FileNotFoundError` when it is gone, other OSErrors when the NAS fails.
    """
    content, finding = _read(path, owner, limits)
    if finding:
        return Inspection(content, (finding,), JobFile((finding,)))
    judged = job_file.validate(content, limits)
    findings = [*judged.findings, *_script_findings(judged, owner), *_output(judged, results)]
    findings.sort(key=lambda one: (one.severity, one.line or 0))
    return Inspection(content, tuple(findings), judged)


def _read(path: Path, owner: User, limits: Limits) -> tuple[bytes, Finding | None]:
    try:
        descriptor = os.open(path, _OPEN)
    except PermissionError as fault:
        return b"", error("unreadable", reason=fault.strerror, owner=owner.name)
    except OSError as fault:
        if path.is_symlink():
            return b"", error("is_symlink")
        raise fault from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        finding = entry_finding(status)
        if finding or status.st_uid != owner.uid:
            return b"", finding or error("owner_unknown", uid=status.st_uid)
        if status.st_size > limits.max_bytes:
            return b"", job_file.too_large(status.st_size, limits)
        return file.read(limits.max_bytes + 1), None


def _script_findings(judged: JobFile, owner: User) -> list[Finding]:
    """Judge what #K8S_SCRIPT names, with the owner's eyes."""
    path = judged.directives.script
    line = judged.directive_lines.get("SCRIPT")
    if not path:
        return []
    try:
        status = os.stat(path)
    except OSError as fault:
        return [_script_fault(fault, line, path, owner)]
    if not stat.S_ISREG(status.st_mode):
        return [error("script_not_a_file", line, path=path)]
    if not os.access(path, os.R_OK):
        return [error("script_unreadable", line, path=path, owner=owner.name)]
    return []


def _script_fault(fault: OSError, line: int | None, path: str, owner: User) -> Finding:
    if fault.errno == errno.ELOOP:
        return error("script_is_a_loop", line, path=path)
    if isinstance(fault, PermissionError):
        return error("script_unreadable", line, path=path, owner=owner.name)
    return error("script_missing", line, path=path)


def _output(judged: JobFile, results: Path) -> list[Finding]:
    options = judged.options
    given = [name for name in ("output", "error") if getattr(options, name) is not None]
    if not given:
        return []
    named = ", ".join(f"--{name}" for name in given)
    folder = results / "<JOB_ID>"
    return [warning("output_redirected", options.lines[given[0]], options=named, results=folder)]
