"""Slurm's commands where the node has them: links among the image's own files.

PATH begins with the folder of these commands, but a script may set PATH anew, or name
/usr/bin/srun in full. An image's own client, which could reach no Slurm, gives way.
"""

import contextlib
import os

from bridge.agent import shim

_DRAFT = ".sbridge-new"


def make(folder: int) -> None:
    """Put the links into an open folder of the sandbox; raises OSError where it takes none."""
    with contextlib.suppress(FileNotFoundError):  # of a try that was interrupted
        os.unlink(_DRAFT, dir_fd=folder)
    for name in shim.COMMANDS:
        os.symlink(f"{shim.FOLDER}/{name}", _DRAFT, dir_fd=folder)
        try:
            os.rename(_DRAFT, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:  # a folder of that name
            os.unlink(_DRAFT, dir_fd=folder)
