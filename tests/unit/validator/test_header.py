import pytest

from validator import header


def read(*lines: str) -> header.Header:
    return header.read("\n".join(lines))


def words(line: str) -> list[str]:
    return list(header.words(line))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" -n 2", ["-n", "2"]),
        ("-n\t2\v-c\f3\r", ["-n", "2", "-c", "3"]),
        (" -J 'a b'", ["-J", "a b"]),
        (' -J "it\'s"', ["-J", "it's"]),
        (' --comment="a "b', ["--comment=a b"]),
        (r" -J a\"b", ["-J", 'a"b']),
        (r" -J 'a\'b'", ["-J", "a'b"]),
        (r" -J \n\\", ["-J", "n\\"]),
        (r" -J a\ b", ["-J", "a", "b"]),
        (" -n 2 # -c 3", ["-n", "2"]),
        (" -J a#b", ["-J", "a"]),
        (r" -J a\#b", ["-J", "a#b"]),
        (' -J "a#b"', ["-J", "a#b"]),
        (' -J "" -n 3', ["-J"]),
        ("# -n 2", []),
        ("", []),
    ],
)
def test_words_are_split_as_sbatch_splits_them(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("#SBATCH -J 'a b", "unmatched_quote"),
        ('#SBATCH -J a"', "unmatched_quote"),
        ("#SBATCH -n 2 : -c 3", "leading_colon"),
    ],
)
def test_what_sbatch_dies_of_is_an_error_with_its_line(line, code):
    (finding,) = read("#!/bin/sh", "", line).findings
    assert (finding.code, finding.severity, finding.line) == (code, "error", 3)


def test_a_quote_in_a_comment_needs_no_end():
    assert read("#!/bin/sh", "#SBATCH -n 2 # don't").findings == ()


def test_only_sbatch_lines_in_column_one_count():
    found = read(
        "#!/bin/sh",
        "##SBATCH -A 1",
        "# SBATCH -A 2",
        " #SBATCH -A 3",
        "#sbatch -A 4",
        "#SBATCH-n 2",
    )
    assert [word.text for word in found.components[0]] == ["-n", "2"]
    assert {word.line for word in found.components[0]} == {6}


@pytest.mark.parametrize("command", ["echo", "  : x", "\u00a0", "\ufeff#SBATCH -n 3"])
def test_the_header_ends_at_the_first_line_that_is_no_comment(command):
    found = read("#!/bin/sh", "", " \t\r", "  # x", command, "#SBATCH -n 2")
    assert found.components == ((),)


def test_words_of_several_lines_form_one_argument_list():
    found = read("#!/bin/sh", "#SBATCH -J", "#SBATCH name -n 2")
    assert [word.text for word in found.components[0]] == ["-J", "name", "-n", "2"]


def test_hetjob_begins_a_component_and_ends_its_line():
    found = read("#!/bin/sh", "#SBATCH -n 1", "#SBATCH HetJob -c 2 'x", "#SBATCH -n 3 packjob -N 9")
    assert [[word.text for word in part] for part in found.components] == [
        ["-n", "1"],
        ["-n", "3"],
    ]


def test_lines_end_at_line_feeds_only():
    found = read(
        "#!/bin/sh", "# a\r\x0b\x85\u2028#SBATCH -n 1", "#SBATCH -n 2", "ls", "#SBATCH -n 3"
    )
    assert [line.number for line in found.lines] == [3]
    assert [line.number for line in found.late_lines] == [5]


@pytest.mark.parametrize("filler", ["-H ", "#\n", "\n#SBATCH -H", "\n", "\nx", "\n ", "'' "])
def test_a_large_file_takes_linear_time(filler):
    text = "#!/bin/sh\n#SBATCH -n 1 " + filler * (300_000 // len(filler))
    assert header.read(text).lines[0].number == 2
