"""What all clusters of one kind share on a machine: slots, which keep them apart, and a record.

The record says which state folder holds which slot, and what was made for all of them here, so
that whoever goes last removes that and no more.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import Failure
from files import write


@dataclass(frozen=True)
class Slots:
    """The slots of one kind of cluster; `is_free` says whether nobody else is in one's way."""

    name: str
    count: int
    is_free: Callable[[int], bool]

    @property
    def _record(self) -> Path:
        return Path(f"/var/lib/{self.name}.json")

    @contextlib.contextmanager
    def record(self) -> Iterator[dict[str, Any]]:
        """Give the machine-wide record to one process at a time, and keep what it changed."""
        lock_path = Path(f"/run/lock/{self.name}.lock")
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        with lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            saved = self._record.read_text() if self._record.exists() else ""
            record: dict[str, Any] = json.loads(saved) if saved else {"slots": {}, "made": []}
            slots = record["slots"]
            for slot in [slot for slot, state in slots.items() if not Path(state).is_dir()]:
                del slots[slot]
            try:
                yield record
            finally:
                text = json.dumps(record) if slots or record["made"] else ""
                if not text:
                    self._record.unlink(missing_ok=True)
                elif text != saved:
                    write(self._record, text)

    def claim(self, state: Path, wanted: int | None) -> int:
        """Return the slot of the cluster in `state`, its old one where that is still free."""
        with self.record() as record:
            slots: dict[str, str] = record["slots"]
            for slot, holder in slots.items():
                if holder == str(state):
                    return int(slot)
            candidates: list[int] = [*([] if wanted is None else [wanted]), *range(self.count)]
            for candidate in candidates:
                if str(candidate) not in slots and self.is_free(candidate):
                    slots[str(candidate)] = str(state)
                    return candidate
        raise Failure(f"All {self.count} slots of this machine are taken, or their ports are.")

    def may_use(self, slot: int, state: Path) -> bool:
        """Whether nobody else holds the slot that a cluster has or had before its last `down`."""
        with self.record() as record:
            return bool(record["slots"].get(str(slot), str(state)) == str(state))

    @staticmethod
    def give_back(record: dict[str, Any], slot: int, state: Path) -> None:
        """Forget in the record that the cluster in `state` holds a slot, if it does."""
        if record["slots"].get(str(slot)) == str(state):
            del record["slots"][str(slot)]
