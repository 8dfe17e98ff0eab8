"""sbcast's command line, when the file to copy and the copies may be the sandboxes' only.

sbcast itself stores the copies outside of all sandboxes. That is right in the folders that
sandboxes and nodes share. For any other a step of one task on each node stores them inside.
"""

import os
import stat
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


# Runs inside, and ends with the errno as sbcast does. The path of the copy, its mode, its time if
# that is kept, and whether it may replace.
_STORE = """
fail() { echo "sbcast: error: REQUEST_FILE_BCAST($SLURMD_NODENAME): $2" >&2; exit "$1"; }
[ -d "${1%/*}/" ] || fail 2 'No such file or directory'
[ ! -d "$1" ] || fail 21 'Is a directory'
[ "$4" ] || [ ! -e "$1" ] || fail 17 'File exists'
draft=$1.sbcast.$$
trap 'rm -f "$draft"' EXIT
cat >"$draft" && chmod "$2" "$draft" || exit 1
[ -z "$3" ] || touch -d "@$3" "$draft" || exit 1
mv -f "$draft" "$1"
"""
# What srun must know of the job; all else of its variables are wishes for other steps.
_KEPT = (b"SLURM_CONF", b"SLURM_JOB_ID", b"SLURM_JOBID", b"SLURM_JWT")
_WISHES = (b"SLURM_", b"SRUN_", b"SLURMD_")


class UnsharedError(Exception):
    """The copies would be where no task sees them; the text is for the user."""


@dataclass(frozen=True)
class Copy:
    """What is copied where: positions in the arguments, None where there is no such word."""

    source: int | None
    target: int | None


def copy_of(arguments: Sequence[str]) -> Copy:
    """Find the two paths."""
    paths, _ = _read(arguments)
    return Copy(*[*paths, None, None][:2])


def _read(arguments: Sequence[str]) -> tuple[list[int], dict[str, str | None]]:
    """Return where paths stand, and the options, which may stand behind these, too."""
    paths: list[int] = []
    said: dict[str, str | None] = {}
    at = 0
    while at < len(arguments):
        options = list(TABLE.read(arguments[at:]))
        said |= {option.name: option.value for option in options}
        at += options[-1].end if options else 0
        if at < len(arguments):
            paths.append(at)
            at += 1
    return paths, said


def paths_inside(arguments: Sequence[str]) -> list[str]:
    """Return the file to copy and the folder of the copy, both of the sandbox."""
    copy = copy_of(arguments)
    if copy.source is None or copy.target is None:
        return []
    return [arguments[copy.source], _folder(arguments[copy.target])]


def shared(arguments: Sequence[str], opened: dict[str, int]) -> list[str]:
    """Return the command line that reads the sandbox's file, if `opened` has it open."""
    result = list(arguments)
    copy = copy_of(arguments)
    if copy.source is None or copy.target is None:
        return result
    source = arguments[copy.source]
    result[copy.target] = _file(arguments[copy.target], source)
    if source in opened:
        result[copy.source] = f"/proc/self/fd/{opened[source]}"
    return result


def is_for_sandboxes(arguments: Sequence[str], is_shared: Callable[[str], bool]) -> bool:
    """Whether the copies are for folders that only sandboxes have.

    `is_shared` tells whether the sandbox's folder is the node's too.
    """
    paths = paths_inside(arguments)
    return bool(paths) and not is_shared(paths[1])


def step(
    arguments: Sequence[str], opened: dict[str, int], directory: str, job: str, nodes: str
) -> list[str]:
    """Return srun's command line that stores the copies; raises `UnsharedError`.

    `directory` is sbcast's own, inside; `job` is the sandbox's, which has so many `nodes`.
    """
    _, said = _read(arguments)
    copy = copy_of(arguments)
    assert copy.source is not None
    assert copy.target is not None
    source, target = arguments[copy.source], arguments[copy.target]
    if said.get("jobid", job) != job or "no-allocation" in said or _wants_libraries(said):
        raise UnsharedError(
            f"{target} is a path of the sandboxes, and only this job's get copies there, without "
            "libraries; name a path in a shared folder"
        )
    file = os.fstat(opened[source])
    count = nodes if nodes.isdigit() else "1"
    store = [
        os.path.join(directory, _file(target, source)),
        f"{stat.S_IMODE(file.st_mode) & 0o777:o}",
        str(int(file.st_mtime)) if "preserve" in said else "",
        "force" if "force" in said else "",
    ]
    options = [
        *("--quiet", "--overlap", "--mpi=none", "--cpu-bind=none", "--kill-on-bad-exit=0"),
        *(f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--job-name=sbcast"),
        f"--jobid={job}",
        f"--input=/proc/self/fd/{opened[source]}",
    ]
    return [*options, "/bin/sh", "-c", _STORE, "sbcast", *store]


def environment_of_step(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what the environment of sbcast leaves srun with."""
    return {
        key: value
        for key, value in environment.items()
        if key in _KEPT or not key.startswith(_WISHES)
    }


def _wants_libraries(said: dict[str, str | None]) -> bool:
    return "send-libs" in said and (said["send-libs"] or "yes").lower() not in ("no", "n", "0")


def _file(target: str, source: str) -> str:
    return target + source.rpartition("/")[2] if target.endswith("/") else target


def _folder(target: str) -> str:
    return target.rpartition("/")[0] or ("/" if target.startswith("/") else ".")
