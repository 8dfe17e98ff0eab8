"""What Slurms of several releases answered, by the question that bridge.slurm asked them."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.command import Completed

ANSWERS = Path(__file__).resolve().parent / "slurm"
MARK = "|0123456789abcdef|"
NAME = "a JobState=X b"
OWN_EXTRA = "my StdOut=own"
TAG = "4f21"
_CHANGING = re.compile(r"^--(starttime|endtime|user)=.*")


def question(argv: Sequence[str]) -> str:
    """Return the command as it stands in the records: without its folder and the time of day."""
    words = [Path(argv[0]).name, *argv[1:]]
    return " ".join(_CHANGING.sub(r"--\1", word) for word in words)


class RecordedSlurm:
    """One release's answers; `jobs` are the ids of the jobs that it was asked about."""

    def __init__(self, release: str) -> None:
        record = json.loads((ANSWERS / f"{release}.json").read_text(encoding="utf-8"))
        self.release = release
        self.jobs: dict[str, int] = record["jobs"]
        self.nodes: list[str] = record["nodes"]
        self._answers: dict[str, str] = record["answers"]

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        """Answer as bridge.command.run does."""
        return Completed(self._answers[question(argv)], "")
