"""The error file: why a job file was refused, in the site's languages.

Plain UTF-8 text with LF line ends and no byte order mark, which every editor opens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from validator import messages
from validator.findings import Finding
from watcher import names

_WIDTH = 78


@dataclass(frozen=True)
class _Phrases:
    heading: str
    line: str
    error: str
    warning: str
    sbatch: str
    what_now: str
    reference: str


_PHRASES = {
    "en": _Phrases(
        heading="{name} was not submitted.",
        line="Line {line}: ",
        error="ERROR",
        warning="Note",
        sbatch="What Slurm said:",
        what_now="What to do: correct the file and drop it into {submit} again. The original is "
        "kept beside this text.",
        reference="Reference for the administrator: {tag} (owner: {owner})",
    ),
    "ko": _Phrases(
        heading="{name} 파일은 제출되지 않았습니다.",
        line="{line}번째 줄: ",
        error="오류",
        warning="참고",
        sbatch="Slurm의 메시지:",
        what_now="해결 방법: 파일을 고친 뒤 {submit} 폴더에 다시 넣어 주세요. 원본은 이 안내문과 "
        "같은 폴더에 있습니다.",
        reference="관리자용 참조 번호: {tag} (소유자: {owner})",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """What is known about a refused file; `sbatch` holds sbatch's own words, if it was asked."""

    name: str
    owner: str
    tag: str
    findings: Sequence[Finding]
    sbatch: str
    submit: str


def error_text(refusal: Refusal, languages: Sequence[str]) -> bytes:
    """Return the whole error file."""
    parts = [_part(refusal, language, _PHRASES[language]) for language in languages]
    text = f"\n{'-' * _WIDTH}\n\n".join(parts)
    return text.encode("utf-8", "replace")


def _part(refusal: Refusal, language: str, phrases: _Phrases) -> str:
    lines = [phrases.heading.format(name=names.shown(refusal.name)), ""]
    for finding in refusal.findings:
        label = phrases.error if finding.severity == "error" else phrases.warning
        place = phrases.line.format(line=finding.line) if finding.line else ""
        lines.append(f"[{label}] {place}{messages.sentence(finding, language)}")
    if refusal.sbatch:
        said = [f"    {line}" for line in refusal.sbatch.splitlines()]
        lines += ["", phrases.sbatch, *said]
    lines += ["", phrases.what_now.format(submit=refusal.submit)]
    lines += [phrases.reference.format(tag=refusal.tag, owner=refusal.owner)]
    return "\n".join(lines) + "\n"
