"""Rows of squeue and sacct in which columns of users' text cannot be taken for rows or columns.

A job's name or comment may hold any character, line breaks too. So every column is asked for
with a mark behind it that nobody can foresee.
"""

import secrets

from bridge.errors import TemporaryError


def new_mark() -> str:
    """Return what to put behind each column: for squeue in its format, for sacct --delimiter."""
    return f"|{secrets.token_hex(8)}|"


def rows(text: str, mark: str, columns: int) -> list[list[str]]:
    """Return the cells of each row; raises `TemporaryError` when the text is cut off or other."""
    *cells, rest = text.split(mark)
    if rest.strip("\n") or len(cells) % columns:
        raise TemporaryError("Slurm's answer cannot be read: it is cut off, or no table")
    table = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return [[first.removeprefix("\n"), *others] for first, *others in table]
