"""What a new sandbox gets from outside, before anybody enters: clock, names and /dev/shm.

Rule: nothing is followed that the image may have laid out; only what is really its own root
file system is written to, never a folder of the node that is mounted there.
"""

import contextlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from bridge import kernel
from bridge.errors import TemporaryError
from bridge.runtimes.sandbox import Sandbox

# A copy and no mount: an image's /etc/localtime is a link, and a mount would hide the time zone
# that it names.
_CLOCK = ("localtime", "timezone")
# Podman writes the pod's name into both in any case.
_NAMES = ("hostname", "hosts")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the node's own
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fit(sandbox: Sandbox, *, has_nodes_name: bool) -> list[str]:
    """Fit the sandbox out; returns what could not be done, in words.

    `has_nodes_name` tells whether processes have the node's name inside. Raises `TemporaryError`
    when the sandbox has ended.
    """
    gone = TemporaryError(f"sandbox {sandbox.name} ended at once")
    try:
        process = kernel.open_process(sandbox.init_pid)
    except OSError as error:
        raise gone from error
    try:
        if kernel.start_ticks(process) != sandbox.init_start:
            raise gone
        root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
    except OSError as error:
        raise gone from error
    finally:
        os.close(process)
    take_files = partial(_take_files, _CLOCK + (_NAMES if has_nodes_name else ()))
    failures = []
    try:
        for what, do in (("the node's files", take_files), (str(_SHARED_MEMORY), _enlarge)):
            try:
                do(root)
            except OSError as error:
                failures.append(f"{what}: {error}")
    finally:
        os.close(root)
    return failures


def _take_files(names: Iterable[str], root: int) -> None:
    folder = os.open("etc", os.O_RDONLY | _FOLDER, dir_fd=root)
    try:
        if kernel.mount_id(folder) != kernel.mount_id(root):
            return  # a mount of the site's choice, and not ours to write to
        for name in names:
            _copy(Path("/etc", name), folder)
    finally:
        os.close(folder)


def _copy(source: Path, folder: int) -> None:
    """Have the file in `folder` be as the node's is, or be none where the node has none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source.name, dir_fd=folder)
    with contextlib.suppress(FileNotFoundError):
        content = source.read_bytes()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(source.name, flags, 0o644, dir_fd=folder), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)


def _enlarge(root: int) -> None:
    """Give /dev/shm the node's size; what is in it counts as the job's memory all the same."""
    if not _SHARED_MEMORY.is_dir():
        return
    node = os.statvfs(_SHARED_MEMORY)
    devices = os.open("dev", os.O_PATH | _FOLDER, dir_fd=root)
    try:
        memory = os.open("shm", os.O_PATH | _FOLDER, dir_fd=devices)
    finally:
        os.close(devices)
    try:
        if os.fstat(memory).st_dev != _SHARED_MEMORY.stat().st_dev:  # else it is the node's
            kernel.resize_tmpfs(memory, node.f_blocks * node.f_frsize)
    finally:
        os.close(memory)
