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

# The folder gets its name when the first results come.
_RESULTS_NOTE = {
    "en": "Where the results will be, or in {job_id}_2, {job_id}_3 … where a folder of that name "
    "was there before. Yours is the folder whose job_summary.json has the same tag as this "
    "receipt. Of an array each task has such a folder, called by its own job_id. A job that was "
    "started again has one for each run; of several with the same job_id the one with the highest "
    "restart counts.",
    "ko": "결과가 저장될 폴더입니다. 같은 이름의 폴더가 이미 있었으면 {job_id}_2, {job_id}_3 …에 "
    "저장됩니다. job_summary.json의 tag가 이 접수증의 tag와 같은 폴더가 이 작업의 결과입니다. 배열 "
    "작업은 태스크마다 그 태스크의 job_id로 된 폴더가 따로 있습니다. 다시 시작된 작업은 실행할 "
    "때마다 폴더가 생기며, job_id가 같은 폴더 가운데 restart가 가장 큰 것이 최종 결과입니다.",
}


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
        "results_note": {
            language: _RESULTS_NOTE[language].format(job_id=receipt.job_id)
            for language in languages
        },
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
