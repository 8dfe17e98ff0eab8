"""The receipt: what happened to an accepted job file, for its owner and for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from validator import messages
from validator.findings import Finding
from watcher import names

SCHEMA = "sbridge-receipt/1"


@dataclass(frozen=True)
class Receipt:
    """What is known about an accepted file.

    `submitted` is in seconds since the epoch, None when Slurm did not say; `sbatch` is what
    sbatch said besides the job's id; `results` the folder that holds every job's results.
    """

    job_id: int
    name: str
    owner: str
    tag: str
    digest: str
    submitted: float | None
    results: Path
    warnings: Sequence[Finding]
    sbatch: str


def receipt_text(receipt: Receipt, languages: Sequence[str]) -> bytes:
    """Return the receipt as JSON text."""
    content = {
        "schema": SCHEMA,
        "job_id": receipt.job_id,
        "job_file": names.shown(receipt.name),
        "owner": receipt.owner,
        "submitted_at": _utc(receipt.submitted),
        "results": str(receipt.results / str(receipt.job_id)),
        "sha256": receipt.digest,
        "tag": receipt.tag,
        "warnings": [_warning(finding, languages) for finding in receipt.warnings],
        "sbatch": receipt.sbatch,
    }
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "replace")


def _utc(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat("T", "seconds")


def _warning(finding: Finding, languages: Sequence[str]) -> dict[str, Any]:
    texts = {language: messages.sentence(finding, language) for language in languages}
    return {"code": finding.code, "line": finding.line, "text": texts}
