"""The folder that holds all files of a cluster."""

import os
import re
from pathlib import Path

from commands import Failure


def state_folder(variable: str, default: str) -> Path:
    """Return the state folder that was asked for, refusing those that cannot work."""
    state = Path(os.environ.get(variable) or default).resolve()
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", str(state)):
        raise Failure(f"{variable} must be a plain absolute path, not {str(state)!r}.")
    if len(str(state)) > 60:
        raise Failure(f"{state}: longer than 60 characters; unix sockets in it could not be used.")
    return state
