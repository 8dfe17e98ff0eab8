import re

import pytest

from bridge.results import explanation, page, remark
from bridge.results.explanation import Ending, explain

LANGUAGES = ("en", "ko")


@pytest.mark.parametrize(
    ("state", "exit_code", "signal", "started", "outcome", "words"),
    [
        ("COMPLETED", 0, None, True, "success", "without an error"),
        ("FAILED", 1, None, True, "failure", "exit code 1"),
        ("FAILED", 126, None, True, "failure", "executable"),
        ("FAILED", 127, None, True, "failure", "not found"),
        ("FAILED", 137, None, True, "failure", "signal 9 (SIGKILL). Often memory ran out"),
        ("FAILED", 139, None, True, "failure", "crashed"),
        ("FAILED", 0, 15, True, "failure", "The job was ended by signal 15 (SIGTERM)."),
        ("FAILED", 0, 40, True, "failure", "signal 40 (SIG40)"),
        ("FAILED", 255, None, True, "failure", "exit code 255"),
        ("FAILED", None, None, True, "failure", "The job failed."),
        ("OUT_OF_MEMORY", None, None, True, "out_of_memory", "#SBATCH --mem=8G"),
        ("TIMEOUT", 0, None, True, "timeout", "#SBATCH --time="),
        ("DEADLINE", 0, None, True, "timeout", "time limit"),
        ("CANCELLED by 1000", 0, 15, True, "cancelled", "while it ran"),
        ("CANCELLED+", 0, None, True, "cancelled", "while it ran"),
        ("CANCELLED", 0, None, False, "cancelled", "before it began"),
        ("NODE_FAIL", 1, None, True, "node_failure", "not the job's fault"),
        ("PREEMPTED", 0, 15, True, "preempted", "make room"),
        ("REQUEUED", None, None, False, "requeued", "put back into the queue"),
        ("", None, None, True, "unknown", "not known"),
        ("", 0, None, True, "success", "without an error"),
        ("", 9, None, True, "failure", "exit code 9"),
        ("NEWSTATE", 0, None, True, "success", "without an error"),
    ],
)
def test_every_ending_is_told_in_words(
    state: str, exit_code: int | None, signal: int | None, started: bool, outcome: str, words: str
) -> None:
    ending = Ending(state, exit_code, signal, started, "")
    assert ending.outcome == outcome
    assert words in explain(ending, "en")
    assert re.search("[가-힣]", explain(ending, "ko"))


@pytest.mark.parametrize(("exit_code", "signal"), [(1, None), (127, None), (134, None), (0, 6)])
def test_a_failure_names_the_log_only_where_there_is_one(exit_code: int, signal: int) -> None:
    ends = [Ending("FAILED", exit_code, signal, True, log) for log in ("/home/alice/err", "")]
    for language, words in (
        ("en", "/home/alice/err should say why."),
        ("ko", "/home/alice/err 파일을"),
    ):
        assert words in explain(ends[0], language)
        assert "err" not in explain(ends[1], language)
        assert explain(ends[0], language).startswith(explain(ends[1], language))


def test_a_killed_jobs_log_is_not_said_to_tell_why() -> None:
    assert "err" not in explain(Ending("FAILED", 137, None, True, "/home/alice/err"), "en")


def test_every_text_exists_in_every_language() -> None:
    tables = [
        remark.TEXTS,
        explanation.OUTCOMES,
        explanation._SENTENCES,
        explanation._CODES,
        explanation._SIGNALS,
        {"see_log": explanation._SEE_LOG},
        page._LABELS,
    ]
    for table in tables:
        for key, words in table.items():
            assert set(words) == set(LANGUAGES), key
