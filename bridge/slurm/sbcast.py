"""sbcast's command line, when the file to copy may be the sandbox's only.

sbcast stores the copies outside of all sandboxes. That is of use in the folders only that
sandboxes and nodes share; elsewhere no task would find them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from validator.getopt import Table

_SHORT = {
    "C": "compress", "f": "force", "F": "fanout", "j": "jobid", "p": "preserve", "s": "size",
    "t": "timeout", "v": "verbose", "V": "version",
}  # fmt: skip
_FLAGS = "force help no-allocation preserve usage verbose version".split()
TABLE = Table(
    {
        **dict.fromkeys(_FLAGS, "none"),
        **dict.fromkeys(["compress", "send-libs"], "optional"),
        **dict.fromkeys("exclude fanout jobid size timeout treewidth".split(), "required"),
    },
    _SHORT,
)


class UnsharedError(Exception):
    """The copies would be where no task sees them; the text is for the user."""


@dataclass(frozen=True)
class Copy:
    """What is copied where: positions in the arguments, None where there is no such word."""

    source: int | None
    target: int | None


def copy_of(arguments: Sequence[str]) -> Copy:
    """Find the two paths; options may stand behind them."""
    paths = []
    at = 0
    while at < len(arguments):
        options = list(TABLE.read(arguments[at:]))
        at += options[-1].end if options else 0
        if at < len(arguments):
            paths.append(at)
            at += 1
    return Copy(*[*paths, None, None][:2])


def paths_inside(arguments: Sequence[str]) -> list[str]:
    """Return the file to copy and the folder of the copy, both of the sandbox."""
    copy = copy_of(arguments)
    if copy.source is None or copy.target is None:
        return []
    return [arguments[copy.source], _folder(arguments[copy.target])]


def shared(
    arguments: Sequence[str], opened: dict[str, int], is_shared: Callable[[str], bool]
) -> list[str]:
    """Return the command line that reads the sandbox's file; raises `UnsharedError`.

    `opened` has a descriptor for the source, `is_shared` tells whether the sandbox's folder is
    the node's too.
    """
    result = list(arguments)
    copy = copy_of(arguments)
    if copy.source is None or copy.target is None:
        return result
    source, target = arguments[copy.source], arguments[copy.target]
    if not is_shared(_folder(target)):
        raise UnsharedError(
            f"{target} would be outside of the sandboxes, where no task sees it; name a path in "
            "a shared folder, or have a task on each node copy: srun --ntasks-per-node=1 cp …"
        )
    if target.endswith("/"):
        result[copy.target] = target + source.rpartition("/")[2]
    result[copy.source] = f"/proc/self/fd/{opened[source]}"
    return result


def _folder(target: str) -> str:
    return target.rpartition("/")[0] or ("/" if target.startswith("/") else ".")
