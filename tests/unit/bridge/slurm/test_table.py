import pytest

from bridge.errors import TemporaryError
from bridge.slurm.table import new_mark, rows


def test_line_breaks_and_blanks_in_cells_change_nothing():
    assert rows("1#a\nb#\n2#\u2028|\n#\n", "#", 2) == [["1", "a\nb"], ["2", "\u2028|\n"]]


def test_no_row_is_an_answer():
    assert rows("", "#", 3) == []


@pytest.mark.parametrize("text", ["1#a#\n2#", "1#a#\n2", "error: no"])
def test_an_answer_that_is_cut_off_is_none(text):
    with pytest.raises(TemporaryError, match="cannot be read"):
        rows(text, "#", 2)


def test_nobody_can_foresee_a_mark():
    assert new_mark() != new_mark()
