"""Judge a whole job file, and tell what its submission must know about it.

The bytes are judged as sbatch judges them (`get_script_buffer` of Slurm 22.05): it refuses
files that are empty, do not begin with `#!`, hold a NUL byte or a CR LF pair anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from validator import directives, header, options
from validator.directives import Directives
from validator.errors import InvalidJob
from validator.findings import Finding, error, warning
from validator.header import BLANKS, Header
from validator.limits import Limits
from validator.options import Options

_BLANK_BYTES = BLANKS.encode()
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"
_MOST_OF_A_KIND = 10


@dataclass(frozen=True)
class JobFile:
    """A judged job file; `options` are those of the first component of a heterogeneous job."""

    findings: tuple[Finding, ...] = ()
    options: Options = field(default_factory=Options)
    directives: Directives = field(default_factory=Directives)
    directive_lines: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def check(self) -> None:
        """Raise `InvalidJob` when there are errors."""
        if self.errors:
            raise InvalidJob(self.errors)


def validate(content: bytes, limits: Limits) -> JobFile:
    """Judge the bytes of a job file; never raises, every fault is a finding."""
    fatal = _unreadable(content, limits)
    if fatal:
        return JobFile(findings=(fatal,))
    text = content.removeprefix(_UTF8_MARK)  # which is an error by itself, and not the rest's
    head = header.read(text.decode("utf-8", "surrogateescape"))
    facts, option_findings = options.read(head.components[0])
    asked, directive_lines, directive_findings = directives.read(head, limits)
    findings = [
        *_byte_findings(content),
        *head.findings,
        *option_findings,
        *(found for part in head.components[1:] for found in options.read(part)[1]),
        *directive_findings,
        *_body_findings(text, head, asked),
        *_idle_findings(text, head, asked, directive_lines),
    ]
    return JobFile(tuple(_bounded(findings)), facts, asked, directive_lines)


def _unreadable(content: bytes, limits: Limits) -> Finding | None:
    """Return why nothing in the file can be judged, None when it can."""
    if len(content) > limits.max_bytes:
        return too_large(len(content), limits)
    if not content:
        return error("empty")
    if content.startswith(_UTF16_MARKS):
        return error("utf16", 1)
    if not content.strip(_BLANK_BYTES):
        return error("only_blanks")
    if b"\0" in content:
        return error("binary", _line_of(content, content.index(b"\0")))
    return None


def too_large(size: int, limits: Limits) -> Finding:
    """Return the finding for a file of `size` bytes, which need not be read."""
    return error("too_large", size_kib=-(-size // 1024), limit_kib=limits.max_bytes // 1024)


def _byte_findings(content: bytes) -> list[Finding]:
    findings = []
    if content.startswith(_UTF8_MARK):
        findings.append(error("byte_order_mark", 1))
    elif not content.startswith(b"#!"):
        findings.append(_no_shebang(content))
    if b"\r\n" in content:
        findings.append(error("windows_line_ends", _line_of(content, content.index(b"\r\n"))))
    elif b"\r" in content:
        findings.append(warning("stray_carriage_return", _line_of(content, content.index(b"\r"))))
    if content.startswith(b"#!") and not _interpreter(content):
        findings.append(warning("no_interpreter", 1))
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as fault:
        findings.append(warning("not_utf8", _line_of(content, fault.start)))
    return findings


def _no_shebang(content: bytes) -> Finding:
    text = content.lstrip(_BLANK_BYTES)
    if text.startswith(b"#!"):
        return error("blank_before_shebang", _line_of(content, len(content) - len(text)))
    return error("no_shebang", 1)


def _interpreter(content: bytes) -> bytes:
    line = content.partition(b"\n")[0]
    return line[2:].strip(_BLANK_BYTES) if line.startswith(b"#!") else b""


def _body_findings(content: bytes, head: Header, asked: Directives) -> list[Finding]:
    findings = [
        warning("late_sbatch", line.number)
        for line in head.late_lines
        if line.text.startswith("#SBATCH")
    ]
    if _interpreter(content) and not head.has_body and not asked.script:
        findings.append(warning("no_command"))
    return findings


def _idle_findings(
    content: bytes, head: Header, asked: Directives, lines: dict[str, int]
) -> list[Finding]:
    """Tell of directives that will do nothing in this file."""
    findings = []
    if asked.script and head.has_body and not _names_script(content, asked.script):
        findings.append(warning("script_not_named", lines["SCRIPT"]))
    if asked.runtime not in ("", "host") and not asked.image:
        findings.append(warning("runtime_without_image", lines["RUNTIME"], runtime=asked.runtime))
    return findings


def _names_script(content: bytes, script: str) -> bool:
    """Whether a command (or at least a line that is no comment) names the file of K8S_SCRIPT."""
    words = (b"K8S_SCRIPT", script.encode("utf-8", "surrogateescape"))
    named = (line.lstrip(_BLANK_BYTES) for line in content.split(b"\n"))
    return any(line[:1] != b"#" and any(word in line for word in words) for line in named)


def _bounded(findings: Sequence[Finding]) -> list[Finding]:
    """Keep a few of each kind: the hundredth helps nobody."""
    kept: list[Finding] = []
    seen: dict[str, int] = {}
    for finding in findings:
        seen[finding.code] = seen.get(finding.code, 0) + 1
        if seen[finding.code] <= _MOST_OF_A_KIND:
            kept.append(finding)
    return sorted(kept, key=lambda finding: (finding.severity, finding.line or 0))


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1
