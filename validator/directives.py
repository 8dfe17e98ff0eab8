"""Read the `#K8S_KEY=value` lines of a job file.

They count in the header only, in column 1, with `=` right behind the key. The value is the
rest of the line without the blanks around it: no quotes, no comments. slurm-conf/job_submit.lua
reads the same lines in slurmctld and refuses what is refused here.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from validator.findings import Finding, error, warning
from validator.header import BLANKS, Header, Line, shown
from validator.limits import RUNTIMES, Limits

KEYS = ("IMAGE", "WORKDIR", "SCRIPT", "RUNTIME")
PREFIX = "#K8S_"
MAX_VALUE_BYTES = 1024

_DIRECTIVE = re.compile(r"#K8S_([^= \t\v\f\r]*)(.*)", re.DOTALL)
_NEAR_MISS = re.compile(r"[ \t]*#[#! \t]*K8S[-_ ]?([A-Za-z]+)[ \t]*[=:]", re.IGNORECASE)
_IMAGE = re.compile(r"[A-Za-z0-9][\w./:@-]*", re.ASCII)
_IMAGE_FAULT = re.compile(r"://|//|[/:@]$|[:@][:@/]", re.ASCII)


@dataclass(frozen=True)
class Directives:
    """What the #K8S_ lines ask for; empty strings mean "not asked for".

    `image` is an image reference, `workdir` and `script` are absolute paths where the
    job runs, `runtime` one of `validator.limits.RUNTIMES`.
    """

    image: str = ""
    workdir: str = ""
    script: str = ""
    runtime: str = ""


def read(header: Header, limits: Limits) -> tuple[Directives, dict[str, int], list[Finding]]:
    """Read a file's directives: their values, the line of each key, what is wrong with them."""
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    findings: list[Finding] = []
    for line in header.lines:
        if line.number == 1:
            continue
        if not line.text.startswith(PREFIX):
            findings += _near_miss(line)
            continue
        key, value, faults = _directive(line, limits)
        if key in lines:
            faults = [error("repeated_directive", line.number, key=key, first_line=lines[key])]
        if key:
            lines.setdefault(key, line.number)
        findings += faults
        if not faults:
            values[key.lower()] = value
    findings += [
        warning("late_directive", line.number, directive=shown(line.text))
        for line in header.late_lines
        if line.text.startswith(PREFIX)
    ]
    return Directives(**values), lines, findings


def _directive(line: Line, limits: Limits) -> tuple[str, str, list[Finding]]:
    """Return key, value and faults of one line; the key is empty when it is none of ours."""
    match = _DIRECTIVE.fullmatch(line.text)
    assert match is not None
    key, rest = match[1], match[2]
    if key not in KEYS:
        return "", "", [_unknown(line, key)]
    if not rest.startswith("="):
        return key, "", [error("directive_without_value", line.number, key=key)]
    value = rest[1:].strip(BLANKS)
    return key, value, [_at(line, fault) for fault in _faults(key, value, limits)]


def _at(line: Line, fault: Finding) -> Finding:
    return Finding(fault.code, fault.severity, line.number, fault.parameters)


def _unknown(line: Line, key: str) -> Finding:
    given = shown(f"K8S_{key}")
    close = difflib.get_close_matches(key[:40].upper(), KEYS, 1, 0.5)
    if close:
        return error("unknown_directive_like", line.number, given=given, suggestion=close[0])
    known = ", ".join(f"K8S_{known}" for known in KEYS)
    return error("unknown_directive", line.number, given=given, known=known)


def _faults(key: str, value: str, limits: Limits) -> list[Finding]:
    if not value:
        return [error("empty_directive", key=key)]
    if len(value.encode("utf-8", "surrogateescape")) > MAX_VALUE_BYTES:
        return [error("long_directive", key=key, limit=MAX_VALUE_BYTES)]
    if any("\udc80" <= character <= "\udcff" for character in value):
        return [error("directive_not_utf8", key=key)]
    if any(character < " " or character == "\x7f" for character in value):
        return [error("control_character", key=key)]
    return _RULES[key](key, value, limits)


def _image(key: str, value: str, _: Limits) -> list[Finding]:
    if _IMAGE.fullmatch(value) and not _IMAGE_FAULT.search(value):
        return []
    return [error("malformed_image", key=key, value=shown(value))]


def _path(key: str, value: str, _: Limits) -> list[Finding]:
    return [] if value.startswith("/") else [error("relative_path", key=key, value=shown(value))]


def _runtime(key: str, value: str, limits: Limits) -> list[Finding]:
    allowed = ", ".join(limits.runtimes)
    if value in limits.runtimes:
        return []
    if value in RUNTIMES:
        return [error("runtime_not_offered", key=key, value=value, allowed=allowed)]
    return [error("unknown_runtime", key=key, value=shown(value), allowed=allowed)]


_RULES: dict[str, Callable[[str, str, Limits], list[Finding]]] = {
    "IMAGE": _image,
    "WORKDIR": _path,
    "SCRIPT": _path,
    "RUNTIME": _runtime,
}


def _near_miss(line: Line) -> list[Finding]:
    match = _NEAR_MISS.match(line.text)
    if not match:
        return []
    close = difflib.get_close_matches(match[1][:40].upper(), KEYS, 1, 0.5)
    if not close:
        return []
    return [
        warning("near_miss_directive", line.number, given=shown(line.text), suggestion=close[0])
    ]
