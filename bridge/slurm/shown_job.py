"""What `scontrol show job` says of one job, in every release of Slurm since 22.05.

What differs between the releases, for what sbridge reads, is here alone:

* From 23.02 on a job has `Extra`, and the request travels there instead of in `Comment`.
* 26.05 leaves `StdErr` empty when it is the same file as `StdOut`.
* 26.05 shows the whole command line of sbatch (`SubmitLine`) before `WorkDir`.
* Newer releases tell more (SLUID, LicensesAlloc, …), and 24.11 puts two blanks where 26.05 has one.

The user's own text may look like facts, so it is cut out where it stands: the job's name comes
first and is known; the rest comes after slurmctld's facts, so the first occurrence of a key counts,
but for the streams, which come last.
"""

import re
from collections.abc import Mapping

from bridge.errors import TemporaryError
from bridge.request import MARKER

_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_/:]*)=")
_LAST = {"StdErr", "StdIn", "StdOut"}
_SUBMIT_LINE = re.compile(r"\sSubmitLine=.*(?=\sWorkDir=)", re.DOTALL)
# Of a heterogeneous job's first part all parts are shown.
_OTHER_PART = re.compile(r"\n+(?=JobId=\d+ HetJobId=\d+ HetJobOffset=[1-9])")
_EXTRA_WITH_REQUEST = re.compile(rf"\sExtra=((?:.*\s)?{re.escape(MARKER)}\S*)", re.DOTALL)


def fields_of(job_id: int, name: str, text: str) -> dict[str, str]:
    """Read `scontrol -d -o show job`: one line, but for line breaks of the user's own.

    `_details` is all of it behind the name. Raises `TemporaryError` when it is no such answer.
    """
    start = re.compile(rf"JobId={job_id} ((?:[A-Za-z]+=\S* )*?)JobName={re.escape(name)} ")
    match = start.match(text)
    if not match:
        raise TemporaryError(f"Slurm's answer about job {job_id} cannot be read")
    text = _OTHER_PART.split(text[match.end() :], maxsplit=1)[0]
    text = _SUBMIT_LINE.sub("", text)
    fields: dict[str, str] = {"_details": text, "JobName": name}
    fields |= dict(field.split("=", 1) for field in match[1].split())
    matches = list(_FIELD.finditer(text))
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        end = following.start() if following else len(text)
        value = text[match.end() : end].strip()
        if match[1] in _LAST:
            fields[match[1]] = value
        fields.setdefault(match[1], value)
    fields["StdErr"] = fields.get("StdErr") or fields.get("StdOut", "")
    return fields


def extra_of(fields: Mapping[str, str], comment: str) -> str:
    """Return the job's `extra` up to the request in it, "" when there is none.

    `comment` is the job's own, as squeue tells it, and so cannot be taken for its `extra`.
    """
    match = _EXTRA_WITH_REQUEST.search(fields["_details"].replace(f"Comment={comment}", "", 1))
    return match[1] if match else ""
