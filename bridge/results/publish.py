"""The final pass: everything a finished job left, complete, verified and summed up.

Steps, in this order, each of which may be done again after a crash anywhere:
1. drafts of a publication that crashed are removed
2. stdout.log, stderr.log  completed and compared with the job's
3. outputs/                copied; what other nodes delivered there is counted in (`delivery`)
4. job_summary.txt         for people
5. checksums.txt           what 2 to 4 put there, for `sha256sum -c`, which refuses an empty one
6. job_summary.json        for programs; by rename: from now on the folder is complete
7. .incomplete             removed, and what deliveries left for this
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from bridge.results import checksums, delivery, mirror, page, source, summary, transfer
from bridge.results.delivery import OUTPUTS
from bridge.results.folder import MARKER, SUMMARY, ResultFolder, remove, sync_directory
from bridge.results.plan import Plan, carry_out
from bridge.results.remark import Remarks
from bridge.results.source import Skip
from bridge.results.summary import JobFacts, Published
from bridge.results.transfer import Copied
from bridge.results.tree import Tree

_ALL = 1 << 62

OnFile = Callable[[str, Copied], None]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out a plan (see `plan`) once; the same again continues where this one failed.

    The answer also has `files`, `bytes` and `skipped`, or `already`: true when this run's
    results were complete before.
    """
    return carry_out(request, _act)


def publish(plan: Plan, out: int, folder: ResultFolder) -> Published:
    """Fill and complete `folder` from the open local folder `out`.

    Raises OSError and `Trouble` when the NAS does not do its part.
    """
    folder.remove_drafts()
    facts = JobFacts.of(plan.facts)
    published = _Publication(folder, facts, plan.languages).run(out)
    folder.write(SUMMARY, summary.json_bytes(summary.document(facts, published, time.time())))
    _unmark(folder)
    return published


def _act(plan: Plan, out: int, folder: ResultFolder) -> dict[str, Any]:
    if folder.is_complete:
        _unmark(folder)
        return {"already": True}
    published = publish(plan, out, folder)
    return {
        "already": False,
        "files": published.files,
        "bytes": published.size,
        "skipped": published.skipped.count,
    }


def _unmark(folder: ResultFolder) -> None:
    remove(MARKER, folder.descriptor)
    delivery.forget(folder)
    sync_directory(folder.descriptor)


@dataclass
class _Publication:
    """Steps 2 to 5; without 2 for a job whose logs are where its sbatch wanted them."""

    folder: ResultFolder
    facts: JobFacts
    languages: Sequence[str]

    def run(self, out: int) -> Published:
        descriptor, draft = self.folder.draft()
        with os.fdopen(descriptor, "wb") as listing:

            def add(path: str, copied: Copied) -> None:
                listing.write(checksums.line(copied.sha256, path))

            published = self._publish_files(out, add)
            published = self._with_delivered(published, listing)
            self._write_page(published, add)
            listing.flush()
            os.fchmod(descriptor, 0o644)
            sha256 = transfer.read_back(descriptor).sha256
        self.folder.put(draft, checksums.NAME)
        sync_directory(self.folder.descriptor)
        return replace(published, checksums_sha256=sha256)

    def _publish_files(self, out: int, add: OnFile) -> Published:
        tree = Tree(self.folder, add)
        logs: list[Copied | None] = [None, None]
        if self.facts.has_logs:
            each = (_Log(name, self.folder, tree.skipped) for name in mirror.LOGS)
            logs = [log.publish(out, add) for log in each]
        self._publish_outputs(tree, out)
        return Published(
            stdout=logs[0],
            stderr=logs[1],
            files=tree.files,
            size=tree.size,
            skipped=tree.skipped,
            notes=tree.notes,
        )

    def _with_delivered(self, published: Published, listing: IO[bytes]) -> Published:
        delivered = delivery.take_in(self.folder, listing)
        published.skipped.extend(delivered.skipped)
        published.notes.extend(delivered.notes)
        return replace(
            published,
            files=published.files + delivered.files,
            size=published.size + delivered.size,
        )

    def _write_page(self, published: Published, add: OnFile) -> None:
        text = page.text(self.facts, published, self.languages, time.localtime)
        content = text.encode("utf-8", "backslashreplace")
        self.folder.write(page.NAME, content)
        add(page.NAME, Copied(len(content), hashlib.sha256(content).hexdigest()))

    def _publish_outputs(self, tree: Tree, out: int) -> None:
        try:
            source.look(OUTPUTS, out)
        except Skip:
            pass  # the job removed it
        else:
            tree.publish(OUTPUTS, out)
        try:  # the layout stays the same for whoever looks, whatever the job made of it
            os.mkdir(OUTPUTS, 0o755, dir_fd=self.folder.descriptor)
        except FileExistsError:
            return


@dataclass
class _Log:
    """stdout.log or stderr.log: mostly there already, so it is completed rather than copied."""

    name: str
    folder: ResultFolder
    skipped: Remarks

    def publish(self, out: int, add: OnFile) -> Copied | None:
        """Return what is there at the end; None when nothing can be."""
        try:
            copied = self._complete(out)
        except Skip as skip:
            self.skipped.add(self.name, skip.kind)
            copied = self._as_mirrored()
        if copied is not None:
            add(self.name, copied)
        return copied

    def _complete(self, out: int) -> Copied | None:
        try:
            log, _ = source.open_file(self.name, out)
        except Skip as skip:
            if skip.kind == "vanished":  # a job that never began has no logs
                return self._as_mirrored()
            raise
        try:
            return self._append(log) or transfer.publish_file(
                self.name, out, self.folder, self.folder.descriptor
            )
        finally:
            os.close(log)

    def _append(self, log: int) -> Copied | None:
        """Complete the mirrored copy; None when it does not equal the job's log then."""
        before = os.fstat(log)
        if transfer.is_in_place(self.name, self.folder.descriptor, before):
            return transfer.digest_of(log, before.st_size)
        copy = mirror.open_copy(self.name, self.folder, before)
        if copy is None:
            return None
        try:
            mirror.append_new(log, copy, _ALL)
            wanted = transfer.digest_of(log, before.st_size)
            if transfer.read_back(copy) != wanted:
                return None
            transfer.dress(copy, before)
            os.fsync(copy)
            return wanted
        finally:
            os.close(copy)

    def _as_mirrored(self) -> Copied | None:
        copy = mirror.open_copy(self.name, self.folder)
        if copy is None:
            return None
        try:
            return transfer.read_back(copy)
        finally:
            os.close(copy)
