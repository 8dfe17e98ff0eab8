"""What one watcher works with; whoever works for it gets the whole of it."""

from dataclasses import dataclass
from typing import Any

from bridge.config import Config
from watcher.board import Board, Claim
from watcher.children import Children
from watcher.locks import StateFolder

_BUSY_S = 1.0


@dataclass(frozen=True)
class Workplace:
    """The settings, the locks, the board, the children and the log of one watcher."""

    config: Config
    state: StateFolder
    board: Board
    children: Children
    log: Any

    def is_free(self, claim: Claim, now: float) -> bool:
        """Whether nobody works on the submission; if somebody does, it is put off."""
        if self.state.is_free(claim.tag):
            return True
        claim.not_before = now + _BUSY_S
        return False
