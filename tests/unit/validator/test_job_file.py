import pytest

from validator.errors import InvalidJob
from validator.job_file import validate
from validator.limits import Limits

LIMITS = Limits()
GOOD = b"#!/bin/bash\n#SBATCH -n 1\n#K8S_IMAGE=alpine\necho hello\n"


def found(content: bytes) -> list[tuple[str, str, int | None]]:
    return [(f.code, f.severity, f.line) for f in validate(content, LIMITS).findings]


def test_a_good_file_has_no_findings_and_its_facts_are_told():
    job_file = validate(b"#!/bin/sh\n#SBATCH -J n --comment='a b' -a 1-2\nls\n", LIMITS)
    assert job_file.findings == ()
    assert (job_file.options.name, job_file.options.comment) == ("n", "a b")
    assert job_file.options.array == "1-2"
    job_file.check()


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty", None),
        (b" \n\t\r\n", "only_blanks", None),
        (b"echo hello\n", "no_shebang", 1),
        (b"# comment\n#!/bin/sh\n", "no_shebang", 1),
        (b"\n\n  #!/bin/sh\nls\n", "blank_before_shebang", 3),
        (b"\xef\xbb\xbf#!/bin/sh\nls\n", "byte_order_mark", 1),
        ("#!/bin/sh\nls\n".encode("utf-16"), "utf16", 1),
        (b"#!/bin/sh\r\nls\r\n", "windows_line_ends", 1),
        (b"#!/bin/sh\nls\ncat <<E\nx\r\nE\n", "windows_line_ends", 4),
        (b"\x7fELF\x02\x01\x01\0\0", "binary", 1),
        (b"#!/bin/sh\nls\n\0\n", "binary", 3),
    ],
)
def test_what_sbatch_refuses_is_one_error_with_its_line(content, code, line):
    assert found(content) == [(code, "error", line)]


def test_of_a_file_with_a_byte_order_mark_only_that_is_wrong():
    judged = validate(b"\xef\xbb\xbf" + GOOD, LIMITS)
    assert [(f.code, f.line) for f in judged.findings] == [("byte_order_mark", 1)]
    assert judged.directives == validate(GOOD, LIMITS).directives
    no_command = b"\xef\xbb\xbf#!/bin/sh\n#SBATCH -n 1\n"
    assert [code for code, _, _ in found(no_command)] == ["byte_order_mark", "no_command"]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"#!/bin/sh\nls\rls\n", "stray_carriage_return", 2),
        (b"#!/bin/sh\n# caf\xe9\nls\n", "not_utf8", 2),
        (b"#!\nls\n", "no_interpreter", 1),
        (b"#!/bin/sh\n#SBATCH -n 1\n\n", "no_command", None),
        (b"#!/bin/sh\nls\n#SBATCH -n 1\n", "late_sbatch", 3),
        (b"#!/bin/sh\n#K8S_SCRIPT=/x.py\nls\n# $K8S_SCRIPT\n", "script_not_named", 2),
        (b"#!/bin/sh\n#\n#K8S_RUNTIME=podman\nls\n", "runtime_without_image", 3),
    ],
)
def test_what_sbatch_accepts_but_nobody_means_is_a_warning(content, code, line):
    assert found(content) == [(code, "warning", line)]
    validate(content, LIMITS).check()


def test_a_file_without_commands_that_names_a_script_is_fine():
    assert found(b"#!/usr/bin/python3\n#K8S_IMAGE=alpine\n#K8S_SCRIPT=/mnt/nas/x.py\n") == []


@pytest.mark.parametrize(
    "body", ['python3 "$K8S_SCRIPT"', "  srun /mnt/nas/x.py 1", "x=${K8S_SCRIPT%.py}", ""]
)
def test_a_file_whose_commands_name_its_script_is_fine(body):
    text = f"#!/bin/sh\n#K8S_SCRIPT=/mnt/nas/x.py\n{body}\n"
    assert found(text.encode()) == []


@pytest.mark.parametrize("lines", [b"#K8S_RUNTIME=podman\n#K8S_IMAGE=a\n", b"#K8S_RUNTIME=host\n"])
def test_a_runtime_that_has_its_effect_is_fine(lines):
    assert found(b"#!/bin/sh\n" + lines + b"ls\n") == []


def test_a_file_above_the_limit_is_refused_with_both_sizes():
    (finding,) = validate(GOOD + b"#" * 2048, Limits(max_bytes=1024)).findings
    assert (finding.code, finding.parameters) == (
        "too_large",
        {"size_kib": "3", "limit_kib": "1"},
    )


def test_windows_line_ends_do_not_hide_other_errors():
    assert found(b"#!/bin/sh\r\n#K8S_IMGE=alpine\r\nls\r\n") == [
        ("windows_line_ends", "error", 1),
        ("unknown_directive_like", "error", 2),
    ]


def test_errors_come_before_warnings_and_both_in_order_of_lines():
    content = b"#!/bin/sh\n# K8S_IMAGE=a\n#K8S_X=1\n#SBATCH -J 'x\nls\n#SBATCH -n 1\n"
    assert [(severity, line) for _, severity, line in found(content)] == [
        ("error", 3),
        ("error", 4),
        ("warning", 2),
        ("warning", 6),
    ]


def test_a_flood_of_the_same_finding_is_cut():
    assert len(found(b"#!/bin/sh\nls\n" + b"#SBATCH -n 1\n" * 1000)) == 10


def test_errors_of_later_components_are_found_too():
    content = b"#!/bin/sh\n#SBATCH -n 1\n#SBATCH hetjob\n#SBATCH stray\nls\n"
    assert found(content) == [("stray_word", "error", 4)]


def test_check_raises_an_invalid_job_that_carries_the_errors_only():
    with pytest.raises(InvalidJob) as caught:
        validate(b"#!/bin/sh\n#K8S_X=1\nls\rls\n", LIMITS).check()
    assert [finding.code for finding in caught.value.findings] == ["unknown_directive"]
    assert "unknown_directive (line 2)" in str(caught.value)
