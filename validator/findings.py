"""One result of judging a job file: what was found, where, how grave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something to tell the user about a job file.

    `code` names an entry of the catalogue (validator.messages), `line` counts from 1 and is
    None when no line is to blame, `parameters` fill the entry's placeholders.
    """

    code: str
    severity: Severity = "error"
    line: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


def error(code: str, line: int | None = None, **parameters: object) -> Finding:
    """Return a finding that keeps the job from being submitted."""
    return Finding(code, "error", line, _texts(parameters))


def warning(code: str, line: int | None = None, **parameters: object) -> Finding:
    """Return a finding that the user should know and that stops nothing."""
    return Finding(code, "warning", line, _texts(parameters))


def _texts(parameters: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items()}
