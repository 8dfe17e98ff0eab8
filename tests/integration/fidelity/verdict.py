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
    if bool(native.refusal) != row.is_refused:
        return f"refused: {row.is_refused}", f"sbatch said: {native.refusal!r}"
    if reason := row.why_different(proctrack):
        return "different", "different" if native != sandboxed else f"the same, and why: {reason}"
    shown = str(native.readable())
    if missing := [text for text in row.shows if text not in shown]:
        return f"the native side shows {missing}", shown
    return native.readable(), sandboxed.readable()
