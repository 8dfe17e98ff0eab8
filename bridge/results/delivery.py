"""What a further node of the job has in its outputs/: brought to outputs/<node> before the end.

The batch host's agent completes the folder (`publish`) when every other node has delivered, and
needs to know of what it has not copied itself. So each delivery, once all its files are there,
leaves two hidden files beside them: lines for checksums.txt, and a record of the rest. They go
when the folder is complete; it takes no delivery then.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from bridge.results import checksums, source
from bridge.results.folder import OPEN_DIRECTORY, ResultFolder, read_record, remove
from bridge.results.plan import Plan, carry_out
from bridge.results.remark import TEXTS, Remarks
from bridge.results.source import Skip
from bridge.results.transfer import Copied, refusal
from bridge.results.tree import Tree

OUTPUTS = "outputs"
_RECORD = ".node-"
_LINES = ".sums-"
_CHUNK_BYTES = 1 << 20


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan (see `plan`, which names the `node`) once; the same again is fine.

    The answer's `retry` is false, too, when the folder is complete already.
    """
    return carry_out(request, _act)


def _act(plan: Plan, out: int, folder: ResultFolder) -> dict[str, Any]:
    if folder.is_complete:
        return {"ok": False, "retry": False, "reason": "the results were completed before"}
    lines, draft = folder.draft()
    with os.fdopen(lines, "wb") as file:

        def add(path: str, copied: Copied) -> None:
            file.write(checksums.line(copied.sha256, path))

        tree = Tree(folder, add)
        place = f"{OUTPUTS}/{plan.node}"
        try:
            with _outputs(folder) as outputs:
                tree.publish_as(place, OUTPUTS, out, outputs)
        except Skip as skip:  # the owner put something else there
            tree.skipped.add(place, skip.kind)
        file.flush()
        os.fsync(lines)
    folder.put(draft, _LINES + plan.node)
    folder.write(_RECORD + plan.node, json.dumps(_record(tree)).encode())
    return {"files": tree.files, "bytes": tree.size, "skipped": tree.skipped.count}


@contextlib.contextmanager
def _outputs(folder: ResultFolder) -> Iterator[int]:
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(OUTPUTS, 0o700, dir_fd=folder.descriptor)
        descriptor = os.open(OUTPUTS, OPEN_DIRECTORY, dir_fd=folder.descriptor)
    except OSError as error:
        raise refusal(error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _record(tree: Tree) -> dict[str, Any]:
    return {
        "files": tree.files,
        "bytes": tree.size,
        "skipped": [[remark.path, remark.kind] for remark in tree.skipped],
        "skipped_count": tree.skipped.count,
        "notes": [[remark.path, remark.kind] for remark in tree.notes],
        "notes_count": tree.notes.count,
    }


@dataclass
class Delivered:
    """What the other nodes delivered into a folder; a record that cannot be read counts nothing."""

    files: int = 0
    size: int = 0
    skipped: Remarks = field(default_factory=Remarks)
    notes: Remarks = field(default_factory=Remarks)

    def add(self, record: dict[str, Any]) -> None:
        """Count one node's; it lies in the user's own folder, so it may say anything."""
        self.files += _count(record.get("files"))
        self.size += _count(record.get("bytes"))
        for name, remarks in (("skipped", self.skipped), ("notes", self.notes)):
            known = remarks.count
            for path, kind in _pairs(record.get(name)):
                remarks.add(path, kind)
            remarks.count = known + _count(record.get(f"{name}_count"))


def take_in(folder: ResultFolder, listing: IO[bytes]) -> Delivered:
    """Write the lines of all deliveries to `listing`; returns what else they recorded."""
    found = Delivered()
    for name in sorted(os.listdir(folder.descriptor)):
        if not name.startswith(_RECORD):
            continue
        try:
            _copy_lines(folder, _LINES + name.removeprefix(_RECORD), listing)
        except Skip:
            continue  # the owner took it away
        found.add(read_record(folder.descriptor, name) or {})
    return found


def _copy_lines(folder: ResultFolder, name: str, listing: IO[bytes]) -> None:
    descriptor, _ = source.open_file(name, folder.descriptor)
    with os.fdopen(descriptor, "rb") as lines:
        while chunk := lines.read(_CHUNK_BYTES):
            listing.write(chunk)


def forget(folder: ResultFolder) -> None:
    """Remove what deliveries left for `take_in`."""
    for name in os.listdir(folder.descriptor):
        if name.startswith((_RECORD, _LINES)):
            with contextlib.suppress(IsADirectoryError):  # the owner's own
                remove(name, folder.descriptor)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    for each in value if isinstance(value, list) else ():
        match each:
            case [str(path), str(kind)] if kind in TEXTS:
                yield path, kind
