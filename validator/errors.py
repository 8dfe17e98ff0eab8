"""The root of every error that sbridge raises on purpose, and the one about job files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from validator.findings import Finding


class SbridgeError(Exception):
    """A failure that sbridge foresaw; its text tells the reader what to do.

    Anything that is not an `SbridgeError` and reaches the top is a bug.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidJob(SbridgeError):
    """The user must change the job file; it is never submitted again as it is.

    The text names the findings by code; validator.messages has the sentences for people.
    """

    def __init__(self, findings: Sequence["Finding"]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"the job file has errors: {', '.join(map(_place, self.findings))}")


def _place(finding: "Finding") -> str:
    return f"{finding.code} (line {finding.line})" if finding.line else finding.code
