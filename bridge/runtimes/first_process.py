"""The first process of a sandbox: the container runtime's own, which becomes the init.

Until then it is nothing to go by: its variables are not the image's, and it may still fail.
"""

import errno
import os
import time

from bridge import kernel
from bridge.runtimes.manifest import INIT_PATH

_TIMEOUT_S = 10.0
_INTERVAL_S = 0.005
_INIT = INIT_PATH.encode() + b"\0"


def await_init(process: int) -> None:
    """Return once the process is the init; raises OSError when it ends instead, or takes long.

    `process` is a descriptor of its /proc folder.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while not kernel.read(process, "cmdline").startswith(_INIT):
        if kernel.is_dead(process):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the container runtime does not start the init")
        time.sleep(_INTERVAL_S)
