"""The folder in which slurmstepd's PMIx server and the tasks of its step meet (`srun --mpi=pmix`).

`<SlurmdSpoolDir>/pmix.<job>.<step>` is made by root and given to the job's owner; files in it are
shared memory, named in the tasks' environment. So each task sees it at the same path, and no
other step's: in a mount namespace of its own, a copy of the sandbox's, in which the folder goes
onto an empty one of the run's spool.
"""

import fcntl
import os
import re
from pathlib import Path

from bridge import kernel, wire

_VARIABLE = b"PMIX_SERVER_TMPDIR="
_NAME = re.compile(r"pmix\.\d+\.\d+")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def folder_name(environment: list[bytes]) -> str:
    """Return what the folder of a step is called, "" for one without PMIx.

    The environment is the user's word: where such a folder is, it does not say.
    """
    for pair in environment:
        if pair.startswith(_VARIABLE):
            name = Path(os.fsdecode(pair[len(_VARIABLE) :])).name
            return name if _NAME.fullmatch(name) else ""
    return ""


def orders(name: str, slurmd_spool: Path, shown: Path) -> wire.Fields:
    """Return what the keeper needs to know of the folder of this name.

    `shown` is the node's folder that the sandbox has in the place of slurmd's.
    """
    return [
        ("pmix", os.fsencode(slurmd_spool / name)),
        ("pmix_place", os.fsencode(shown / name)),
    ]


class PmixFolder:
    """A step's folder, held until it is shown. Its methods are called in the order below."""

    def __init__(self, path: bytes, tree: int) -> None:
        self._path = path
        self._tree = tree

    @classmethod
    def of(cls, message: wire.Message) -> "PmixFolder | None":
        """Take hold of the folder that `orders` names.

        None unless it is there and the job owner's: jobs inherit what their submitter had, and
        he may have had it from an MPI program.
        """
        path = message.first("pmix")
        if not path:
            return None
        try:
            folder = os.open(path, _FOLDER)
        except OSError:
            return None
        try:
            if os.fstat(folder).st_uid != int(message.first("uid")):
                return None
            Path(message.text("pmix_place")).mkdir(mode=0o711, exist_ok=True)
            return cls(path, kernel.open_tree(f"/proc/self/fd/{folder}"))
        finally:
            os.close(folder)

    def place(self, lowest: int) -> None:
        """Move the descriptor out of the way of the step's own."""
        moved = fcntl.fcntl(self._tree, fcntl.F_DUPFD_CLOEXEC, lowest)
        os.close(self._tree)
        self._tree = moved

    def show(self) -> None:
        """Put the folder where it is on the node, in a copy of the mount namespace; as root."""
        kernel.unshare_mounts()
        kernel.move_mount(self._tree, self._path)
        os.close(self._tree)
