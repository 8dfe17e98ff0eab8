"""Publish the job's outputs/: every regular file below it, the rest named and left out.

Folders are walked by descriptor on both sides, so renames and links redirect nothing, and
one level costs two descriptors.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.results import source, transfer
from bridge.results.folder import ResultFolder, sync_directory
from bridge.results.remark import Remarks
from bridge.results.source import Skip
from bridge.results.transfer import Copied

MAX_DEPTH = 128
MAX_PATH_BYTES = 3500
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Tree:
    """One walk. `published` is called with each file's path in the result folder."""

    folder: ResultFolder
    published: Callable[[str, Copied], None]
    skipped: Remarks = field(default_factory=Remarks)
    notes: Remarks = field(default_factory=Remarks)
    files: int = 0
    size: int = 0

    def publish(self, name: str, from_directory: int) -> None:
        """Publish what is called `name` in `from_directory` directly below the result folder."""
        self._entry(name, name, from_directory, self.folder.descriptor, 0)

    def publish_as(self, path: str, name: str, from_directory: int, to_directory: int) -> None:
        """Publish it as `path` in the result folder, whose parent `to_directory` is."""
        self._entry(name, path, from_directory, to_directory, 0)

    def _entry(self, name: str, path: str, source_fd: int, target_fd: int, depth: int) -> None:
        try:
            if len(os.fsencode(path)) > MAX_PATH_BYTES:
                raise Skip("too_deep")
            mode = source.look(name, source_fd).st_mode
            if stat.S_ISDIR(mode):
                self._directory(name, path, source_fd, target_fd, depth)
            else:
                self._file(name, path, source_fd, target_fd)
        except Skip as skip:
            self.skipped.add(path, skip.kind)

    def _file(self, name: str, path: str, source_fd: int, target_fd: int) -> None:
        copied = transfer.publish_file(name, source_fd, self.folder, target_fd)
        self.files += 1
        self.size += copied.size
        if copied.remark:
            self.notes.add(path, copied.remark)
        self.published(path, copied)

    def _directory(self, name: str, path: str, source_fd: int, target_fd: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Skip("too_deep")
        below, granted = source.open_directory(name, source_fd)
        try:
            if granted:
                self.notes.add(path, "made_readable")
            target = _make_directory(path.rpartition("/")[2], target_fd)
            try:
                for entry in _names(below, name):
                    self._entry(entry, f"{path}/{entry}", below, target, depth + 1)
                _finish_directory(target, os.fstat(below))
            finally:
                os.close(target)
        finally:
            os.close(below)


def _names(directory: int, name: str) -> list[str]:
    try:
        return sorted(os.listdir(directory), key=os.fsencode)
    except OSError as error:
        raise source.unavailable(error, name) from error


def _make_directory(name: str, directory: int) -> int:
    """Make a folder, or take up the one of an earlier try; returns its descriptor."""
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            pass
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
    except OSError as error:
        raise transfer.refusal(error) from error
    os.fchmod(descriptor, 0o700)
    return descriptor


def _finish_directory(descriptor: int, like: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o777 | 0o500)
    os.utime(descriptor, ns=(like.st_mtime_ns, like.st_mtime_ns))
    sync_directory(descriptor)
