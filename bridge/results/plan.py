"""What the agent asks this package for, and the answer it gets; both plain dicts.

    plan = {
        "out":       the run's local folder (JobSpool.out),
        "results":   nas.results,
        "folder":    the name an earlier answer gave for this run, or "",
        "facts":     what is known of the job (`summary.JobFacts`); mirror: job_id, tag, restart
        "languages": messages.languages (publish only),
        "max_bytes": at most so many bytes per log and pass (mirror only, optional),
        "node":      the node whose outputs these are (delivery only),
    }
    answer = {"ok": true, "folder": "42", …}
    answer = {"ok": false, "retry": true, "folder": "42" or "", "reason": "…: the NAS is full …"}

`retry` is false only when nothing can be done any more: the local folder is gone, or a delivery
comes after the end. Anything raised is a bug.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge.results.folder import Claim, ResultFolder, open_folder
from bridge.results.trouble import LocalFolderGone, Trouble, words

DEFAULT_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """One pass over one run's results."""

    out: str
    results: str
    claim: Claim
    facts: dict[str, Any]
    folder: str = ""
    languages: tuple[str, ...] = ("en",)
    max_bytes: int = DEFAULT_MAX_BYTES
    node: str = ""

    @classmethod
    def of(cls, plan: dict[str, Any]) -> "Plan":
        """Read the agent's dict."""
        facts = plan["facts"]
        return cls(
            out=os.fspath(plan["out"]),
            results=os.fspath(plan["results"]),
            claim=Claim(facts["job_id"], facts.get("tag") or "", facts.get("restart") or 0),
            facts=facts,
            folder=plan.get("folder") or "",
            languages=tuple(plan.get("languages") or ("en",)),
            max_bytes=plan.get("max_bytes") or DEFAULT_MAX_BYTES,
            node=plan.get("node") or "",
        )


Act = Callable[[Plan, int, ResultFolder], dict[str, Any]]


def carry_out(request: dict[str, Any], act: Act) -> dict[str, Any]:
    """Open both ends, call `act` with the local folder's descriptor and the result folder.

    Returns act's answer, or why it could not be done in words.
    """
    plan = Plan.of(request)
    answer: dict[str, Any] = {"ok": False, "retry": True, "folder": plan.folder}
    try:
        with _local_folder(plan.out) as out, _result_folder(plan) as folder:
            answer["folder"] = folder.name
            return {"ok": True, "folder": folder.name, **act(plan, out, folder)}
    except LocalFolderGone as error:
        return answer | {"retry": False, "reason": str(error)}
    except Trouble as error:
        return answer | {"reason": f"{_place(plan, answer['folder'])}: {error}"}
    except OSError as error:
        return answer | {"reason": words(error, _place(plan, answer["folder"]))}


@contextlib.contextmanager
def _local_folder(path: str) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        _reopen(path)
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LocalFolderGone(words(error, path)) from error
    except PermissionError as error:
        raise Trouble(words(error, path)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reopen(path: str) -> None:
    """Undo a job's closing of its own local folder, which lies in one of root's."""
    status = os.lstat(path)
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and status.st_mode & 0o500 != 0o500:
        os.chmod(path, 0o700)


def _result_folder(plan: Plan) -> ResultFolder:
    return open_folder(plan.results, plan.claim, plan.folder)


def _place(plan: Plan, folder: str) -> str:
    return f"{plan.results}/{folder}" if folder else plan.results
