import pytest

from validator import options
from validator.header import Word


def read(*words: str):
    return options.read([Word(word, 2) for word in words])


@pytest.mark.parametrize(
    "words",
    [("-J", "name"), ("-Jname",), ("--job-name=name",), ("--job-name", "name"), ("--job=name",)],
)
def test_the_job_name_is_found_however_it_is_written(words):
    found, findings = read(*words)
    assert (found.name, findings) == ("name", [])


def test_an_equals_sign_behind_a_short_option_is_part_of_the_value():
    assert read("-J=x")[0].name == "=x"


def test_the_last_one_of_an_option_given_twice_counts():
    assert read("-J", "a", "--job-name=b")[0].name == "b"


def test_values_of_other_options_are_not_taken_for_options():
    found, findings = read("-A", "-J", "--comment", "--chdir=x", "--nice", "-HJ", "n", "-D", "/tmp")
    assert findings == []
    assert (found.name, found.comment, found.chdir) == ("n", "--chdir=x", "/tmp")


def test_words_behind_two_dashes_are_no_options():
    found, findings = read("-n2", "--", "-J", "name", "stray")
    assert (found.name, findings) == (None, [])


def test_what_is_not_said_is_none_and_an_empty_value_is_not():
    found, _ = read("--comment=")
    assert (found.name, found.comment) == (None, "")


def test_output_and_error_are_found_with_their_lines():
    found, _ = read("-o", "x", "--err=y", "--array=1-3")
    assert (found.output, found.error, found.array) == ("x", "y", "1-3")
    assert found.lines == {"output": 2, "error": 2, "array": 2}


def test_a_word_that_is_no_option_refuses_the_job():
    (finding,) = read("-n", "2", "stray", "-J", "x")[1]
    assert (finding.code, finding.severity, finding.parameters["word"]) == (
        "stray_word",
        "error",
        "stray",
    )


def test_an_unknown_option_is_a_warning_that_names_the_nearest_one():
    (finding,) = read("--particion=main")[1]
    assert (finding.code, finding.severity) == ("unknown_option_like", "warning")
    assert finding.parameters["suggestion"] == "--partition"


def test_reading_goes_on_behind_an_option_of_a_newer_slurm():
    found, findings = read("--brand-new", "value", "-J", "name")
    assert found.name == "name"
    assert [finding.code for finding in findings] == ["unknown_option"]


def test_an_ambiguous_abbreviation_is_told_with_what_it_may_mean():
    (finding,) = read("--nt=3")[1]
    assert finding.code == "ambiguous_option"
    assert "--ntasks-per-node" in finding.parameters["matches"]


def test_a_value_that_is_missing_at_the_end_is_left_to_sbatch():
    assert read("-J") == read("-J")
    assert read("--job-name")[1] == []


@pytest.mark.parametrize("word", ["--wait", "-W", "-HW", "--test-only", "--test"])
def test_options_that_make_sbatch_wait_or_submit_nothing_refuse_the_job(word):
    findings = read(word)[1]
    assert [(f.code, f.severity) for f in findings] == [("waiting_option", "error")]


def test_an_unknown_option_is_named_as_it_was_written():
    assert read("--frobnicate")[1][0].parameters["option"] == "--frobnicate"
