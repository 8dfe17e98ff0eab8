"""How a run's sandbox stands on one node, as a word in that node's Slurm comment; pure.

    sbridge1/30001.0/ready/20001
    sbridge1/30001.0/failed/user/image%20x%20is%20not%20on%20this%20node

A word has no blanks, so it lives between whatever others write into the comment.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from bridge.job_spool import RunId

_MARK = "sbridge1/"
_WORDS = re.compile(rf"(?:^|(?<=\s)|\s){_MARK}\S*")
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Standing:
    """Ready with `port` (the rendezvous' on the first node, else 0), or failed for a reason.

    `blame` is State.blame; a run whose sandbox is still being made has no standing.
    """

    run: RunId
    port: int = 0
    blame: str = ""
    reason: str = ""

    @property
    def word(self) -> str:
        if self.blame:
            reason = quote(self.reason[:_REASON_CHARACTERS], safe="")
            return f"{_MARK}{self.run}/failed/{self.blame}/{reason}"
        return f"{_MARK}{self.run}/ready/{self.port}"


def find(comment: str, run: RunId) -> Standing | None:
    """Return how the run stands according to a node's comment, None when that tells nothing."""
    for word in comment.split():
        mark, _, rest = word.partition(f"{_MARK}{run}/")
        if mark or not rest:
            continue
        name, *values = rest.split("/")
        if name == "failed" and len(values) == 2:
            return Standing(run, blame=values[0], reason=unquote(values[1]))
        if name == "ready" and len(values) == 1 and values[0].isdigit():
            return Standing(run, port=int(values[0]))
    return None


def written(comment: str, standings: Iterable[Standing]) -> str:
    """Return the comment with these words as the only ones of ours; the rest stays as it is."""
    own = _WORDS.sub("", comment)
    return " ".join([*filter(None, [own]), *(standing.word for standing in standings)])
