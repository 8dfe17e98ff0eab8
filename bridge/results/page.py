"""job_summary.txt, for people: the same facts in each language that the site chose; pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.results.explanation import OUTCOMES, explain
from bridge.results.remark import Remarks
from bridge.results.summary import JobFacts, Published
from bridge.results.transfer import Copied
from bridge.results.trouble import printable

NAME = "job_summary.txt"
_LISTED = 50
_SLOW_START_S = 2.0


def text(
    facts: JobFacts,
    published: Published,
    languages: Sequence[str],
    local_time: Callable[[float], time.struct_time] = time.gmtime,
) -> str:
    """Return job_summary.txt: the same in each language, in the order given."""
    parts = (_Page(facts, published, language, local_time).render() for language in languages)
    return ("\n" + "-" * 60 + "\n\n").join(parts)


_LABELS: dict[str, dict[str, str]] = {
    "title": {"en": "Job {id} ({name}): {outcome}", "ko": "작업 {id} ({name}): {outcome}"},
    "reason": {"en": "Reason", "ko": "사유"},
    "job_file": {"en": "Job file", "ko": "작업 파일"},
    "user": {"en": "User", "ko": "사용자"},
    "account": {"en": "account", "ko": "계정"},
    "qos": {"en": "QOS", "ko": "QOS"},
    "nodes": {"en": "Ran on", "ko": "실행 노드"},
    "partition": {"en": "partition", "ko": "파티션"},
    "submitted": {"en": "Submitted", "ko": "제출"},
    "started": {"en": "Started", "ko": "시작"},
    "ended": {"en": "Ended", "ko": "종료"},
    "elapsed_s": {"en": "Run time", "ko": "실행 시간"},
    "restart": {"en": "Started again", "ko": "재시작 횟수"},
    "image": {"en": "Image", "ko": "이미지"},
    "sandbox_start": {"en": "Sandbox ready after", "ko": "샌드박스 준비 시간"},
    "workdir": {"en": "Working directory", "ko": "작업 디렉터리"},
    "script": {"en": "Named by K8S_SCRIPT", "ko": "K8S_SCRIPT에 적은 파일"},
    "state": {"en": "Slurm state", "ko": "Slurm 상태"},
    "max_rss": {"en": "Most memory used", "ko": "최대 메모리 사용량"},
    "cpu": {"en": "CPU time used", "ko": "CPU 사용 시간"},
    "stdout_path": {"en": "Output", "ko": "출력"},
    "stderr_path": {"en": "Error output", "ko": "오류 출력"},
    "files": {"en": "In this folder", "ko": "이 폴더의 내용"},
    "outputs": {"en": "{files} files, {size}", "ko": "파일 {files}개, {size}"},
    "output": {"en": "1 file, {size}", "ko": "파일 1개, {size}"},
    "no_log": {"en": "could not be copied", "ko": "복사할 수 없었습니다"},
    "checksums": {
        "en": "check them here with: sha256sum -c checksums.txt",
        "ko": "이 폴더에서 확인: sha256sum -c checksums.txt",
    },
    "summary": {"en": "this summary, for programs", "ko": "프로그램용 요약"},
    "skipped": {"en": "Not copied ({count})", "ko": "복사하지 않은 항목 ({count})"},
    "notes": {"en": "Files to look at ({count})", "ko": "확인할 파일 ({count})"},
    "more": {"en": "… and {count} more", "ko": "… 외 {count}개"},
    "warnings": {"en": "Warnings", "ko": "경고"},
}


@dataclass(frozen=True)
class _Page:
    facts: JobFacts
    published: Published
    language: str
    local_time: Callable[[float], time.struct_time]

    def render(self) -> str:
        blocks = [
            self._head(),
            self._table(),
            self._folder(),
            self._remarks("skipped", self.published.skipped),
            self._remarks("notes", self.published.notes),
            self._warnings(),
        ]
        return "\n".join("\n".join(block) + "\n" for block in blocks if block)

    def _word(self, key: str, **values: Any) -> str:
        return _LABELS[key][self.language].format(**values)

    def _head(self) -> list[str]:
        facts = self.facts
        name = printable(facts.job_file or facts.name or "?")
        outcome = OUTCOMES[facts.ending.outcome][self.language]
        title = self._word("title", id=facts.job_id, name=name, outcome=outcome)
        lines = [title, "", explain(facts.ending, self.language)]
        if facts.reason:
            lines.append(f"{self._word('reason')}: {printable(facts.reason)}")
        return lines

    def _table(self) -> list[str]:
        facts = self.facts
        rows = [
            ("job_file", facts.job_file),
            ("user", _with(facts.user, self._named("account"), self._named("qos"))),
            ("nodes", _with(facts.nodes, self._named("partition"))),
            ("image", _with(facts.image, facts.runtime, facts.sandbox)),
            ("sandbox_start", self._start()),
            ("workdir", facts.workdir),
            ("script", facts.script),
            *((key, self._time(getattr(facts, key))) for key in ("submitted", "started", "ended")),
            ("elapsed_s", _duration(facts.elapsed_s)),
            ("restart", str(facts.restart or "")),
            ("max_rss", "" if facts.max_rss_kib is None else _size(facts.max_rss_kib * 1024)),
            ("cpu", _duration(facts.cpu_s)),
            ("state", facts.state),
            ("stdout_path", facts.stdout_path),
            ("stderr_path", facts.stderr_path if facts.stderr_path != facts.stdout_path else ""),
        ]
        return [f"{self._word(key)}: {printable(value)}" for key, value in rows if value]

    def _start(self) -> str:
        """Return how long the sandbox took and why, where somebody would ask."""
        took = self.facts.sandbox_start_s or 0.0
        return _with(f"{took:.1f} s", *self.facts.sandbox_start) if took >= _SLOW_START_S else ""

    def _named(self, key: str) -> str:
        value = getattr(self.facts, key)
        return f"{self._word(key)} {value}" if value else ""

    def _folder(self) -> list[str]:
        published = self.published
        key = "output" if published.files == 1 else "outputs"
        outputs = self._word(key, files=published.files, size=_size(published.size))
        return [
            f"{self._word('files')}:",
            *self._logs(),
            f"  outputs/          {outputs}",
            f"  checksums.txt     {self._word('checksums')}",
            f"  job_summary.json  {self._word('summary')}",
        ]

    def _logs(self) -> list[str]:
        if not self.facts.has_logs:
            return []
        return [
            f"  stdout.log        {self._log(self.published.stdout)}",
            f"  stderr.log        {self._log(self.published.stderr)}",
        ]

    def _log(self, log: Copied | None) -> str:
        return _size(log.size) if log else self._word("no_log")

    def _remarks(self, key: str, remarks: Remarks) -> list[str]:
        if not remarks.count:
            return []
        shown = remarks.kept[:_LISTED]
        lines = [f"{self._word(key, count=remarks.count)}:"]
        lines += [f"  {remark.text(self.language)}" for remark in shown]
        if remarks.count > len(shown):
            lines.append(f"  {self._word('more', count=remarks.count - len(shown))}")
        return lines

    def _warnings(self) -> list[str]:
        if not self.facts.warnings:
            return []
        warnings = (f"  {printable(warning)}" for warning in self.facts.warnings)
        return [f"{self._word('warnings')}:", *warnings]

    def _time(self, seconds: float | None) -> str:
        if seconds is None:
            return ""
        return time.strftime("%Y-%m-%d %H:%M:%S %z", self.local_time(seconds))


def _with(value: str, *details: str) -> str:
    told = ", ".join(detail for detail in details if detail)
    return f"{value} ({told})" if value and told else value


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _duration(seconds: float | None) -> str:
    """Return h:mm:ss, which needs no translation; "" for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
