import pytest

from bridge.results import page, summary
from bridge.results.remark import Remarks
from bridge.results.summary import JobFacts

from .conftest import FACTS, published

LANGUAGES = ("en", "ko")


def test_the_text_for_people_says_all_in_english_and_korean() -> None:
    skipped = Remarks()
    skipped.add("outputs/link", "symlink")
    text = page.text(JobFacts.of(FACTS), published(skipped=skipped), LANGUAGES)
    assert (
        text
        == """\
Job 42 (안녕.sh): failed

The job ended with exit code 3. stderr.log should say why.
Reason: NonZeroExitCode

Job file: 안녕.sh
User: alice (account lab, QOS normal)
Ran on: n[1-2] (partition main)
Image: nas-hub.local:5407/alpine:latest (podman, sbridge-42-1)
Sandbox ready after: 12.3 s (pulling image a took 11.5 s (7 MB))
Working directory: /workspace
Named by K8S_SCRIPT: /mnt/nas/x.py
Submitted: 2023-11-14 22:13:20 +0000
Started: 2023-11-14 22:13:30 +0000
Ended: 2023-11-14 23:15:00 +0000
Run time: 1:01:30
Started again: 1
Most memory used: 2.0 MiB
CPU time used: 0:01:02
Slurm state: FAILED

In this folder:
  stdout.log        5 B
  stderr.log        0 B
  outputs/          2 files, 1.5 KiB
  checksums.txt     check them here with: sha256sum -c checksums.txt
  job_summary.json  this summary, for programs

Not copied (1):
  outputs/link: a symbolic link; links are not followed

Warnings:
  --output was overridden

------------------------------------------------------------

작업 42 (안녕.sh): 실패

작업이 종료 코드 3(으)로 끝났습니다. 이유는 stderr.log 파일을 보세요.
사유: NonZeroExitCode

작업 파일: 안녕.sh
사용자: alice (계정 lab, QOS normal)
실행 노드: n[1-2] (파티션 main)
이미지: nas-hub.local:5407/alpine:latest (podman, sbridge-42-1)
샌드박스 준비 시간: 12.3 s (pulling image a took 11.5 s (7 MB))
작업 디렉터리: /workspace
K8S_SCRIPT에 적은 파일: /mnt/nas/x.py
제출: 2023-11-14 22:13:20 +0000
시작: 2023-11-14 22:13:30 +0000
종료: 2023-11-14 23:15:00 +0000
실행 시간: 1:01:30
재시작 횟수: 1
최대 메모리 사용량: 2.0 MiB
CPU 사용 시간: 0:01:02
Slurm 상태: FAILED

이 폴더의 내용:
  stdout.log        5 B
  stderr.log        0 B
  outputs/          파일 2개, 1.5 KiB
  checksums.txt     이 폴더에서 확인: sha256sum -c checksums.txt
  job_summary.json  프로그램용 요약

복사하지 않은 항목 (1):
  outputs/link: 심볼릭 링크입니다. 링크는 따라가지 않습니다

경고:
  --output was overridden
"""
    )


def test_a_job_of_which_nothing_is_known_still_gets_a_summary() -> None:
    unknown = {"user": None, "warnings": None, "from_the_future": 1}
    facts = JobFacts.of({"job_id": 7, "tag": "t", **unknown})
    text = page.text(facts, published(stdout=None), ["en"])
    assert text.startswith("Job 7 (?): ended\n\nHow the job ended is not known.\n\nIn this folder:")
    assert "stdout.log        could not be copied" in text
    content = summary.document(facts, published(stdout=None), 0)
    assert content["stdout"] is None
    assert content["outcome"] == "unknown"
    assert content["started_at"] is None


@pytest.mark.parametrize(
    "paths", [{}, {"stdout_path": "/home/alice/o", "stderr_path": "/home/alice/e"}]
)
def test_a_job_whose_output_is_elsewhere_has_no_logs_here(paths: dict[str, str]) -> None:
    facts = JobFacts.of({"job_id": 7, "state": "FAILED", "exit_code": 6, **paths})
    text = page.text(facts, published(stdout=None, stderr=None), LANGUAGES)
    assert "stdout.log" not in text
    assert "stderr.log" not in text
    assert text.count("/home/alice/e") == (4 if paths else 0)


def test_a_user_cannot_forge_lines_of_the_summary_with_names() -> None:
    skipped = Remarks()
    skipped.add("outputs/x\nSlurm state: COMPLETED\x1b[2J\udcff", "symlink")
    texts = {"name": "a\nb", "job_file": "x\nSlurm state: COMPLETED\u202e", "script": "/x\ny\x1b"}
    facts = JobFacts.of({"job_id": 7, "reason": "c\nd", "warnings": ["e\r\nf"], **texts})
    text = page.text(facts, published(skipped=skipped), ["en"])
    assert "Slurm state" not in [line.split(":")[0] for line in text.splitlines()]
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode()
    content = summary.json_bytes(summary.document(facts, published(skipped=skipped), 0)).decode()
    assert "outputs/x\\\\nSlurm" in content


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_sizes_are_told_in_binary_units(size: int, words: str) -> None:
    assert page._size(size) == words
