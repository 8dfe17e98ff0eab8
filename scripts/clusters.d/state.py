"""The folder that holds all files of a cluster."""

import os
import re
from pathlib import Path

from commands import Failure
from files import LOCK

SAVED = "cluster.json"  # what `up` was asked for


def state_folder(variable: str, default: str) -> Path:
    """Return the state folder that was asked for, refusing those that cannot work."""
    asked = os.path.abspath(os.environ.get(variable) or default)
    state = Path(asked).resolve()
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", str(state)):
        raise Failure(f"{variable} must be a plain absolute path, not {str(state)!r}.")
    if len(str(state)) > 60:
        raise Failure(f"{state}: longer than 60 characters; unix sockets in it could not be used.")
    if asked != str(state):
        raise Failure(f"{asked} leads through a link to {state}; name that folder itself.")
    if state.exists() and state.stat().st_uid != 0:
        raise Failure(
            f"{state} belongs to uid {state.stat().st_uid}, who could change what root runs."
        )
    return state


def refuse_foreign(state: Path) -> None:
    """Refuse a folder with other things in it, which `down --purge` would remove."""
    names = set(os.listdir(state)) if state.is_dir() else set()
    if names - {LOCK} and SAVED not in names:
        raise Failure(f"{state} is not empty and holds no cluster; choose another state folder.")
