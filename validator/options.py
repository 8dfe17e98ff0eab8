"""Find sbatch's options in the words of a job file's header.

sbatch itself is the judge of options; this reads what sbridge needs to know before it
submits, and points at words that sbatch is going to refuse. The table is that of Slurm
22.05 and the options that later releases added.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from validator.findings import Finding, error, warning
from validator.getopt import Table
from validator.header import Word, shown

_FLAGS = (
    "contiguous external help hold ignore-pbs no-requeue overcommit oversubscribe parsable quiet "
    "reboot requeue spread-job spread-segments stepmgr test-only usage use-min-nodes verbose "
    "version wait consolidate-segments"
).split()
_OPTIONAL = "exclusive get-user-env nice no-kill propagate resv-ports".split()
_REQUIRED = (
    "account acctg-freq array batch bb bbf begin chdir cluster cluster-constraint clusters "
    "comment constraint container container-id context core-spec cores-per-socket cpu-freq "
    "cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution error exclude export "
    "export-file extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket "
    "gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep licenses mail-type "
    "mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile nodelist "
    "nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket "
    "ntasks-per-tres oom-kill-step open-mode output partition power prefer priority profile qos "
    "reservation segment signal sockets-per-node switches tasks-per-node thread-spec "
    "threads-per-core time time-min tmp tres-bind tres-per-task uid wait-all-nodes wckey wrap"
).split()
_LONG = {
    **dict.fromkeys(_FLAGS, "none"),
    **dict.fromkeys(_OPTIONAL, "optional"),
    **dict.fromkeys(_REQUIRED, "required"),
}
_SHORT = {
    "a": "array", "A": "account", "B": "extra-node-info", "b": "begin", "C": "constraint",
    "c": "cpus-per-task", "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile",
    "G": "gpus", "H": "hold", "h": "help", "i": "input", "J": "job-name", "k": "no-kill",
    "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks",
    "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos",
    "S": "core-spec", "s": "oversubscribe", "t": "time", "u": "usage", "V": "version",
    "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
# An option of a newer Slurm, perhaps with a value: better read on than stop there.
_TABLE = Table(_LONG, _SHORT, reads_on=True)


# With these sbatch submits nothing, or stays until the job has ended: whoever dropped a file is
# not there to wait for it, and the watcher could not tell them from a Slurm that hangs.
_WAITING = ("test-only", "wait")


@dataclass(frozen=True)
class Options:
    """What a header says that matters to us, as it is written; None means "not said"."""

    name: str | None = None
    comment: str | None = None
    chdir: str | None = None
    output: str | None = None
    error: str | None = None
    array: str | None = None
    account: str | None = None
    partition: str | None = None
    nodes: str | None = None
    ntasks: str | None = None
    ntasks_per_node: str | None = None
    cpus_per_task: str | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    gpus: str | None = None
    gpus_per_node: str | None = None
    gres: str | None = None
    lines: dict[str, int] = field(default_factory=dict)


_FIELDS = {
    name: name.replace("-", "_")
    for name in (
        "comment chdir output error array account partition nodes ntasks ntasks-per-node "
        "cpus-per-task mem mem-per-cpu gpus gpus-per-node gres"
    ).split()
} | {"job-name": "name"}


def read(words: Sequence[Word]) -> tuple[Options, list[Finding]]:
    """Read one component's words; of an option given twice the last one counts."""
    options = Options()
    findings: list[Finding] = []
    end = 0
    for option in _TABLE.read([word.text for word in words]):
        end, word = option.end, words[option.start]
        if not option.name:
            findings.append(_unknown(word, option.given))
        if option.name in _WAITING:
            findings.append(error("waiting_option", word.line, option=f"--{option.name}"))
        if option.name in _FIELDS:
            lines = {**options.lines, _FIELDS[option.name]: word.line}
            value = option.value or ""
            options = replace(options, lines=lines, **{_FIELDS[option.name]: value})
        if option.name == "--":
            return options, findings
    if end < len(words):
        findings.append(error("stray_word", words[end].line, word=shown(words[end].text)))
    return options, findings


def _unknown(word: Word, given: str) -> Finding:
    if not word.text.startswith("--"):
        return warning("unknown_option", word.line, option=shown(f"-{given}"))
    option = shown(f"--{given}")
    if given and (found := _TABLE.matches(given)):
        matches = ", ".join(f"--{name}" for name in found)
        return warning("ambiguous_option", word.line, option=option, matches=matches)
    close = difflib.get_close_matches(given[:40].lower(), list(_LONG), 1, 0.7)
    if close:
        return warning("unknown_option_like", word.line, option=option, suggestion=f"--{close[0]}")
    return warning("unknown_option", word.line, option=option)
