import json
import re
from pathlib import Path

import pytest

from bridge.results import explanation, remark, summary
from bridge.results.summary import JobFacts

from .conftest import FACTS, published


def test_the_document_has_exactly_the_documented_keys() -> None:
    content = summary.document(JobFacts.of(FACTS), published(), 1_700_003_701)
    assert content == {
        "schema": 1,
        "job_id": 42,
        "restart": 1,
        "name": "hello",
        "user": "alice",
        "account": "lab",
        "partition": "main",
        "qos": "normal",
        "nodes": "n[1-2]",
        "state": "FAILED",
        "exit_code": 3,
        "signal": None,
        "reason": "NonZeroExitCode",
        "elapsed_s": 3690,
        "image": "nas-hub.local:5407/alpine:latest",
        "runtime": "podman",
        "sandbox": "sbridge-42-1",
        "sandbox_start_s": 12.3,
        "sandbox_start": ["pulling image a took 11.5 s (7 MB)"],
        "workdir": "/workspace",
        "script": "/mnt/nas/x.py",
        "warnings": ["--output was overridden"],
        "max_rss_kib": 2048,
        "cpu_s": 61.5,
        "job_file": "안녕.sh",
        "tag": "t-42",
        "stdout_path": "",
        "stderr_path": "",
        "outcome": "failure",
        "explanation": "The job ended with exit code 3. stderr.log should say why.",
        "submitted_at": "2023-11-14T22:13:20Z",
        "started_at": "2023-11-14T22:13:30Z",
        "ended_at": "2023-11-14T23:15:00Z",
        "published_at": "2023-11-14T23:15:01Z",
        "stdout": {"path": "stdout.log", "bytes": 5, "sha256": "ab" * 32},
        "stderr": {"path": "stderr.log", "bytes": 0, "sha256": "cd" * 32},
        "outputs": {"path": "outputs", "files": 2, "bytes": 1536},
        "checksums": {"path": "checksums.txt", "sha256": "ef" * 32},
        "skipped": [],
        "skipped_count": 0,
        "notes": [],
        "notes_count": 0,
    }
    assert json.loads(summary.json_bytes(content)) == content


@pytest.mark.parametrize(
    ("facts", "log"),
    [
        ({"tag": "t-42"}, "stderr.log"),
        (
            {"stdout_path": "/home/alice/out", "stderr_path": "/home/alice/err 1"},
            "/home/alice/err 1",
        ),
        (
            {"stdout_path": "/home/alice/o", "stderr_path": "/home/alice/x\nfake"},
            "/home/alice/x\\nfake",
        ),
        ({"stdout_path": "/home/alice/out", "stderr_path": "/dev/null"}, ""),
        ({}, ""),
    ],
)
def test_the_log_that_is_named_is_where_the_jobs_words_are(facts: dict[str, str], log: str) -> None:
    told = JobFacts.of({"job_id": 7, "state": "FAILED", "exit_code": 1, **facts})
    assert told.ending.log == log
    assert told.has_logs is (log == "stderr.log")


def test_every_key_of_the_document_is_documented() -> None:
    content = summary.document(JobFacts.of(FACTS), published(), 0)
    page = (Path(__file__).parents[4] / "docs/job-summary.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert set(content) <= set(re.findall(r"`(\w+)`", " ".join(rows)))
    for kind in remark.TEXTS:
        assert f"`{kind}`" in page
    for outcome in explanation.OUTCOMES:
        assert f"`{outcome}`" in page
