"""Find sbatch's options in the words of a job file's header (getopt_long's rules).

sbatch itself is the judge of options; this reads what sbridge needs to know before it
submits, and points at words that sbatch is going to refuse. The table is that of Slurm
22.05 and the options that later releases added.
"""

import difflib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from validator.findings import Finding, error, warning
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
# Short options that take a value, and the long one that each stands for where we need it.
_SHORT_REQUIRED = "abcdeimnopqtwxABCDFGJLMNS"
_SHORT_OPTIONAL = "k"
_SHORT_FLAGS = "hsvuHOQVW"
_MEANING = {
    "J": "job-name",
    "D": "chdir",
    "o": "output",
    "e": "error",
    "a": "array",
    "A": "account",
    "p": "partition",
    "N": "nodes",
    "n": "ntasks",
    "c": "cpus-per-task",
    "G": "gpus",
}


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
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word.text == "--":
            break
        if word.text.startswith("--"):
            name, value = _long(word, rest, findings)
        elif word.text.startswith("-") and word.text != "-":
            name, value = _short(word, rest, findings)
        else:
            findings.append(error("stray_word", word.line, word=shown(word.text)))
            break
        if name in _WAITING:
            findings.append(error("waiting_option", word.line, option=f"--{name}"))
        if name in _FIELDS:
            lines = {**options.lines, _FIELDS[name]: word.line}
            options = replace(options, lines=lines, **{_FIELDS[name]: value})
    return options, findings


def _long(word: Word, rest: deque[Word], findings: list[Finding]) -> tuple[str, str]:
    given, separator, value = word.text[2:].partition("=")
    name = _full_name(given)
    if name is None:
        findings.append(_unknown(word, given))
        # An option of a newer Slurm, perhaps with a value: better read on than stop here.
        if not separator and rest and not rest[0].text.startswith("-"):
            rest.popleft()
        return "", ""
    if _LONG[name] == "required" and not separator:
        return name, rest.popleft().text if rest else ""
    return name, value


def _full_name(given: str) -> str | None:
    """Return the option that `given` names or, being the start of one only, abbreviates."""
    if given in _LONG:
        return given
    matches = [name for name in _LONG if name.startswith(given)]
    return matches[0] if len(matches) == 1 else None


def _unknown(word: Word, given: str) -> Finding:
    option = shown(f"--{given}")
    if given and any(name.startswith(given) for name in _LONG):
        matches = ", ".join(f"--{name}" for name in _LONG if name.startswith(given))
        return warning("ambiguous_option", word.line, option=option, matches=matches)
    close = difflib.get_close_matches(given[:40].lower(), list(_LONG), 1, 0.7)
    if close:
        return warning("unknown_option_like", word.line, option=option, suggestion=f"--{close[0]}")
    return warning("unknown_option", word.line, option=option)


def _short(word: Word, rest: deque[Word], findings: list[Finding]) -> tuple[str, str]:
    letters = word.text[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _SHORT_REQUIRED:
            value = letters or (rest.popleft().text if rest else "")
            return _MEANING.get(letter, ""), value
        if letter in _SHORT_OPTIONAL:
            break
        if letter == "W":
            return "wait", ""
        if letter not in _SHORT_FLAGS:
            findings.append(warning("unknown_option", word.line, option=shown(f"-{letter}")))
    return "", ""
