"""The terminal of a step (`srun --pty`): the script's controlling terminal, with a name inside.

The step's descriptor 0 is a pty of the node, and sbridge-run, the leader of its session, gave it
up (native/run/run.c). The script's process takes it as natively: the kernel then sends Ctrl-C,
Ctrl-Z, a change of the window's size and a hang-up to whoever is in its foreground. No privilege is
used for that: a terminal that is another session's cannot be taken.

The sandbox has ptys of its own, among which this one has no name, so it is shown as
`/dev/console`. In a mount namespace of the step's own, a copy of the sandbox's: steps with a
terminal do not see each other's, and the mount goes when the step's last process does.
"""

import errno
import fcntl
import os
import re
import termios

from bridge import kernel

_NAME = b"/dev/console"
_PTY = re.compile(r"/dev/pts/\d+")


class Terminal:
    """The pty that is the step's descriptor 0. Its methods are called in the order below."""

    def __init__(self, path: str) -> None:
        """Take hold of the pty `path` while the node's file system is there."""
        self._mount = kernel.open_tree(path)
        self._is_named = False

    @classmethod
    def of(cls, step: list[tuple[int, int]]) -> "Terminal | None":
        """Return the terminal of a step's open files, (number there, descriptor here).

        Only names are looked at: the files are the user's and might answer nothing.
        """
        for number, descriptor in step:
            if number == 0 and _PTY.fullmatch(path := os.readlink(f"/proc/self/fd/{descriptor}")):
                try:
                    return cls(path)
                except OSError:  # it was hung up, or opened in another mount namespace
                    return None
        return None

    def place(self, lowest: int) -> None:
        """Move the descriptor out of the way of the step's own."""
        moved = fcntl.fcntl(self._mount, fcntl.F_DUPFD_CLOEXEC, lowest)
        os.close(self._mount)
        self._mount = moved

    def show(self) -> None:
        """Give the pty its name, in a copy of the sandbox's mount namespace; as root."""
        kernel.unshare_mounts()
        try:
            _make_place()
            kernel.move_mount(self._mount, _NAME)
            self._is_named = True
        except OSError:
            pass  # a /dev that takes nothing new: a terminal without a name is one, too
        os.close(self._mount)

    def adopt(self) -> None:
        """Make it this session's controlling terminal, and have 0, 1 and 2 open by its name."""
        try:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        except OSError as error:
            if error.errno != errno.EPERM:  # it is another session's: a terminal all the same
                raise
        if not self._is_named:
            return
        named = os.open(_NAME, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        for number in (0, 1, 2):
            if _is_same(named, number):
                os.dup2(named, number, inheritable=True)
        os.close(named)


def _make_place() -> None:
    # No link of the image's is followed: it might lead into a folder of the node.
    path, name = os.path.split(_NAME)
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # It stays in the sandbox, an empty file for whoever has no terminal.
        os.mknod(name, 0o600, dir_fd=folder)
    except FileExistsError:
        pass
    finally:
        os.close(folder)


def _is_same(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False  # the step has no such descriptor
