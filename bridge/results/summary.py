"""job_summary.json, for programs; pure.

The schema (docs/job-summary.md): `schema` is 1 and changes only when a key's meaning
does; keys may be added. Times are UTC in ISO 8601, null where something did not happen or is
not known.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.results.explanation import Ending, explain
from bridge.results.remark import TEXTS, Remark, Remarks
from bridge.results.transfer import Copied
from bridge.results.trouble import printable

SCHEMA = 1


@dataclass(frozen=True)
class JobFacts:
    """What is known of a finished job; "" and None mean "not known" or "not so".

    Times in seconds since the epoch, `state` in Slurm's word, `signal` the number of the
    signal that ended it, `restart` how often it was started again before. `stdout_path` and
    `stderr_path` tell where Slurm wrote the output of a job that did not come by the NAS.
    `sandbox_start` is what its start waited for, in order.
    """

    job_id: int
    restart: int = 0
    name: str = ""
    user: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    nodes: str = ""
    state: str = ""
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    elapsed_s: float | None = None
    image: str = ""
    runtime: str = ""
    sandbox: str = ""
    sandbox_start_s: float | None = None
    sandbox_start: tuple[str, ...] = ()
    workdir: str = ""
    script: str = ""
    warnings: tuple[str, ...] = ()
    max_rss_kib: int | None = None
    cpu_s: float | None = None
    job_file: str = ""
    tag: str = ""
    stdout_path: str = ""
    stderr_path: str = ""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "JobFacts":
        """Read the agent's dict; keys that this version does not know are passed over."""
        known = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in facts.items() if key in known}
        for several in ("warnings", "sandbox_start"):
            values[several] = tuple(facts.get(several) or ())
        values["signal"] = facts.get("signal") or None
        for text in (f.name for f in dataclasses.fields(cls) if f.default == ""):
            values[text] = str(values.get(text) or "")
        return cls(**values)

    @property
    def has_logs(self) -> bool:
        """Whether its output comes here, as that of a job that the watcher submitted does."""
        return bool(self.tag)

    @property
    def ending(self) -> Ending:
        path = "" if self.stderr_path == "/dev/null" else printable(self.stderr_path)
        log = "stderr.log" if self.has_logs else path
        return Ending(self.state, self.exit_code, self.signal, self.started is not None, log)


@dataclass(frozen=True)
class Published:
    """What is in the result folder; None for a log that could not be published.

    `checksums_sha256` is "" until checksums.txt is there.
    """

    stdout: Copied | None
    stderr: Copied | None
    files: int
    size: int
    skipped: Remarks
    notes: Remarks
    checksums_sha256: str = ""


def document(facts: JobFacts, published: Published, published_at: float) -> dict[str, Any]:
    """Return the content of job_summary.json."""
    times = ("submitted", "started", "ended")
    plain = {
        f.name: getattr(facts, f.name) for f in dataclasses.fields(facts) if f.name not in times
    }
    return {
        "schema": SCHEMA,
        **plain,
        "warnings": list(facts.warnings),
        "sandbox_start": list(facts.sandbox_start),
        "outcome": facts.ending.outcome,
        "explanation": explain(facts.ending, "en"),
        **{f"{name}_at": _iso(getattr(facts, name)) for name in times},
        "published_at": _iso(published_at),
        "stdout": _log_entry("stdout.log", published.stdout),
        "stderr": _log_entry("stderr.log", published.stderr),
        "outputs": {"path": "outputs", "files": published.files, "bytes": published.size},
        "checksums": {"path": "checksums.txt", "sha256": published.checksums_sha256},
        "skipped": _remark_entries(published.skipped),
        "skipped_count": published.skipped.count,
        "notes": _remark_entries(published.notes),
        "notes_count": published.notes.count,
    }


def json_bytes(content: dict[str, Any]) -> bytes:
    """Return readable JSON in UTF-8; odd bytes in names became escapes before."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _log_entry(path: str, log: Copied | None) -> dict[str, Any] | None:
    return {"path": path, "bytes": log.size, "sha256": log.sha256} if log else None


def _remark_entries(remarks: Iterable[Remark]) -> list[dict[str, str]]:
    return [
        {"path": printable(remark.path), "kind": remark.kind, "text": TEXTS[remark.kind]["en"]}
        for remark in remarks
    ]


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
