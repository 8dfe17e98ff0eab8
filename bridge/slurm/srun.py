"""srun's command line, rewritten so that each task enters the sandbox of its node.

Before the command of every component (`srun a : b` has two) goes sbridge-run, which enters the
sandbox and becomes the command there. The options are srun's own business and stay as they are.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bridge.task import MARK, quote
from validator.getopt import Option, Table

# slurm_opt.c of 22.05 to 26.05.
_FLAGS = (
    "async consolidate-segments contiguous debugger-test disable-status exact help hold "
    "interactive label multi-prog no-allocate overcommit oversubscribe parsable preserve-env "
    "quiet quit-on-interrupt reboot spread-job spread-segments stepmgr test-only unbuffered usage "
    "use-min-nodes verbose version wait-for-children whole"
).split()
_OPTIONAL = (
    "bcast compress exclusive external-launcher immediate kill-on-bad-exit nice no-kill "
    "oom-kill-step overlap propagate pty resv-ports send-libs x11"
).split()
_REQUIRED = (
    "accel-bind account acctg-freq autocomplete bb bbf bcast-exclude begin chdir cluster "
    "cluster-constraint clusters comment constraint container container-id container-type context "
    "core-spec cores-per-socket cpu-bind cpu-freq cpu_bind cpus-per-gpu cpus-per-task deadline "
    "delay-boot dependency distribution epilog error exclude export extra extra-node-info gid "
    "gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group "
    "hint ignore-signals input job-name jobid licenses mail-type mail-user mcs-label mem mem-bind "
    "mem-per-cpu mem-per-gpu mem-update mincpus mpi msg-timeout network nodefile nodelist nodes "
    "ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket ntasks-per-tres "
    "open-mode output pack-group partition power prefer priority profile prolog qos relative "
    "reservation resources segment signal slurmd-debug sockets-per-node switches task-epilog "
    "task-prolog tasks-per-node thread-spec threads threads-per-core time time-min tmp treewidth "
    "tres-bind tres-per-task uid wait wckey"
).split()
_SHORT = {
    "A": "account", "B": "extra-node-info", "b": "begin", "C": "constraint",
    "c": "cpus-per-task", "D": "chdir", "d": "dependency", "E": "preserve-env", "e": "error",
    "F": "nodefile", "G": "gpus", "H": "hold", "h": "help", "I": "immediate", "i": "input",
    "J": "job-name", "K": "kill-on-bad-exit", "k": "no-kill", "L": "licenses", "l": "label",
    "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit",
    "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "r": "relative", "S": "core-spec",
    "s": "oversubscribe", "T": "threads", "t": "time", "u": "unbuffered", "V": "version",
    "v": "verbose", "W": "wait", "w": "nodelist", "X": "disable-status", "x": "exclude",
    "Z": "no-allocate",
}  # fmt: skip
TABLE = Table(
    {
        **dict.fromkeys(_FLAGS, "none"),
        **dict.fromkeys(_OPTIONAL, "optional"),
        **dict.fromkeys(_REQUIRED, "required"),
    },
    _SHORT,
)
_BETWEEN = ":"
HOST_FILE = b"SLURM_HOSTFILE"
WORKING_DIR = b"SLURM_WORKING_DIR"  # what --chdir says, unless that is there


class UnsupportedError(Exception):
    """The command line asks for what a sandbox cannot give; the text is for the user."""


@dataclass(frozen=True)
class Tasks:
    """How tasks enter: `runner` is sbridge-run's path, `directory` srun's own, inside.

    `is_at_home` tells whether srun is in that directory on the node too, `has_directory`
    whether the node has another one, and `rewrite` takes the path of
    a --multi-prog file and `wrap_programs`, and returns the path of the wrapped one. `named` is
    the environment's directory for tasks, which srun itself is not told.
    """

    runner: str
    directory: str
    is_at_home: bool
    has_directory: Callable[[str], bool]
    rewrite: Callable[[str, Callable[[str], str]], str]
    named: str = ""


def job_of(arguments: Sequence[str], environment: dict[bytes, bytes]) -> str:
    """Return the id of the job that the command line is for, "" for a new one."""
    named = [option.value for option in TABLE.read(arguments) if option.name == "jobid"]
    inherited = environment.get(b"SLURM_JOB_ID") or environment.get(b"SLURM_JOBID", b"")
    return (named[-1] or "") if named else inherited.decode("ascii", "replace")


def is_named(arguments: Sequence[str]) -> bool:
    """Whether the command line says how a step is called."""
    components = _components(arguments)
    return any(option.name == "job-name" for _, options, _ in components for option in options)


def with_exports(arguments: Sequence[str], rewrite: Callable[[str], str]) -> list[str]:
    """Return the command line with the value of every --export as `rewrite` has it."""
    return _with_values(arguments, lambda option: option.name == "export", rewrite)


def host_files(arguments: Sequence[str], environment: dict[bytes, bytes]) -> list[str]:
    """Return the paths of the files of host names that srun reads."""
    components = _components(arguments)
    named = [o.value or "" for _, options, _ in components for o in options if _is_host_file(o)]
    return [path for path in (*named, os.fsdecode(environment.get(HOST_FILE, b""))) if path]


def with_host_files(arguments: Sequence[str], rewrite: Callable[[str], str]) -> list[str]:
    """Return the command line with the path of every file of host names as `rewrite` has it."""
    return _with_values(arguments, _is_host_file, rewrite)


def _is_host_file(option: Option) -> bool:
    if option.name == "nodelist":
        return "/" in (option.value or "")
    return option.name == "nodefile"


def _with_values(
    arguments: Sequence[str], is_meant: Callable[[Option], bool], rewrite: Callable[[str], str]
) -> list[str]:
    result: list[str] = []
    for words, options, command in _components(arguments):
        for option in options:
            if option.value is not None and is_meant(option):
                last = words[option.end - 1]  # the value alone, or --export=value
                words[option.end - 1] = last.removesuffix(option.value) + rewrite(option.value)
        result += [_BETWEEN, *words, *command]
    return result[1:]


def program_files(arguments: Sequence[str]) -> list[str]:
    """Return the paths of the --multi-prog files that srun reads."""
    return [
        command[0]
        for _, options, command in _components(arguments)
        if command and any(option.name == "multi-prog" for option in options)
    ]


def wrap(arguments: Sequence[str], tasks: Tasks) -> list[str]:
    """Return the command line whose tasks enter; raises `UnsupportedError`."""
    result: list[str] = []
    for component in _components(arguments):
        result += [_BETWEEN, *_wrapped(*component, tasks)]
    return result[1:]


def _components(arguments: Sequence[str]) -> Iterator[tuple[list[str], list[Option], list[str]]]:
    """Yield the components' option words, options and commands."""
    rest = list(arguments)
    while True:
        options = list(TABLE.read(rest))
        start = options[-1].end if options else 0
        end = rest.index(_BETWEEN, start) if _BETWEEN in rest[start:] else len(rest)
        yield rest[:start], options, rest[start:end]
        if end == len(rest):
            return
        rest = rest[end + 1 :]


def _wrapped(
    words: list[str], options: list[Option], command: list[str], tasks: Tasks
) -> list[str]:
    said = {option.name: option.value for option in options}
    if not command or "help" in said or "usage" in said or "version" in said:
        return words + command
    if "bcast" in said:
        raise UnsupportedError(
            "srun --bcast would copy the program to where no sandbox sees it; put it into a "
            "shared folder and leave --bcast out"
        )
    directory = _join(tasks.directory, said.get("chdir") or tasks.named)
    mark = [tasks.runner, MARK + quote(directory)]
    name = command[0].rpartition("/")[2]
    if "multi-prog" in said:
        path = tasks.rewrite(command[0], lambda text: wrap_programs(text, " ".join(mark)))
        command = [path, *command[1:]]
    else:
        command = [*mark, *command]
    kept = [word for span in _kept(options, directory, tasks) for word in words[slice(*span)]]
    # Before the user's own options, of which the last one counts.
    return [*([f"--job-name={name}"] if name else []), *kept, *command]


def _kept(options: list[Option], directory: str, tasks: Tasks) -> list[tuple[int, int]]:
    """Return which words stay: all but a --chdir to a directory that only sandboxes have."""
    named = [option.value or "" for option in options if option.name == "chdir"]
    is_found = tasks.is_at_home or all(value.startswith("/") for value in named)
    is_dropped = bool(named) and not (is_found and tasks.has_directory(directory))
    spans = dict.fromkeys((option.start, option.end) for option in options)
    # One that is written together with others, as in `-lD x`, cannot be told from them.
    others = {(option.start, option.end) for option in options if option.name != "chdir"}
    return [span for span in spans if span in others or not is_dropped]


def _join(directory: str, other: str) -> str:
    if other.startswith("/"):
        return other
    return f"{directory.rstrip('/')}/{other}" if other else directory


def wrap_programs(text: str, mark: str) -> str:
    """Put `mark` before the program of each line of a --multi-prog file."""
    lines = []
    goes_on = False
    for line in text.split("\n"):
        ranks, *program = line.split(None, 1)[:2] if line.strip() else [""]
        if not goes_on and program and not ranks.startswith("#"):
            line = f"{ranks} {mark} {program[0]}"
        goes_on = line.endswith("\\")
        lines.append(line)
    return "\n".join(lines)
