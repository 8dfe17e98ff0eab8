"""Command lines are read as getopt_long reads them."""

import pytest

from validator.getopt import Table

LONG = {"all": "none", "alike": "optional", "name": "required", "number": "required"}
TABLE = Table(LONG, {"a": "all", "k": "alike", "n": "name"})


def read(*words, table=TABLE):
    found = list(table.read(words))
    return [(o.name, o.value) for o in found], list(words[found[-1].end if found else 0 :])


@pytest.mark.parametrize(
    ("words", "options", "rest"),
    [
        ([], [], []),
        (["x", "-a"], [], ["x", "-a"]),
        (["-", "-a"], [], ["-", "-a"]),
        (["-a", "--", "-a"], [("all", None), ("--", None)], ["-a"]),
        (["-ann", "x"], [("all", None), ("name", "n")], ["x"]),
        (["-an", "v", "x"], [("all", None), ("name", "v")], ["x"]),
        (["-kv", "-k", "x"], [("alike", "v"), ("alike", None)], ["x"]),
        (["--name", "-a", "x"], [("name", "-a")], ["x"]),
        (["--na=v=w", "x"], [("name", "v=w")], ["x"]),
        (["--alike", "x"], [("alike", None)], ["x"]),
        (["--name"], [("name", None)], []),
    ],
)
def test_options_end_where_getopt_ends_them(words, options, rest):
    assert read(*words) == (options, rest)


def test_an_abbreviation_of_several_options_is_read_where_all_take_a_value():
    assert read("--n", "v", "x") == ([("", "v")], ["x"])
    assert read("--al", "x") == ([("", None)], ["x"])


@pytest.mark.parametrize(("reads_on", "rest"), [(True, ["x"]), (False, ["v", "x"])])
def test_a_word_behind_an_unknown_option_is_what_the_table_says(reads_on, rest):
    table = Table(LONG, {}, reads_on)
    assert read("--new", "v", "x", table=table)[1] == rest
    assert read("--new", "-v", table=table)[1] == []
