"""Whether a row of the table holds."""

from collections.abc import Mapping

from tests.integration.fidelity.observed import Seen
from tests.integration.fidelity.row import Row

Table = Mapping[tuple[str, str], Seen]


def of(row: Row, proctrack: str, table: Table) -> tuple[object, object]:
    """Return what must be equal, as short to read as can be: what is wanted, what was seen.

    `table` holds both sides, "native" and "sandboxed", by the row's title.
    """
    native, sandboxed = table[row.title, "native"], table[row.title, "sandboxed"]
    for side, astray in (("native", native.astray), ("sandboxed", sandboxed.astray)):
        if astray:  # or both would be the same for a bad reason
            return f"a {side} side", f"jobs {', '.join(astray)} were none"
    if bool(native.refusal) != row.is_refused:
        return f"refused: {row.is_refused}", f"sbatch said: {native.refusal!r}"
    reason = row.why_different(proctrack)
    if reason and native == sandboxed:
        return "different", f"the same, and why: {reason}"
    expected = (sandboxed, row.instead) if reason else (native, row.shows)
    shown = str(expected[0].readable())
    if missing := [text for text in expected[1] if text not in shown]:
        return f"the {'sandboxed' if reason else 'native'} side shows {missing}", shown
    if reason:
        return "different", "different"
    pair = native.readable(), sandboxed.readable()
    # Lines do not tell how they end.
    return (native, sandboxed) if pair[0] == pair[1] else pair
