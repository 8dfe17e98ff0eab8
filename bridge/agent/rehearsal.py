"""What an agent would make of a job that Slurm has not got.

The specification comes from the agent's own functions; only their input is made up here.
"""

import contextlib
import os
import pwd
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bridge.agent import blueprint
from bridge.agent.job import JobRun, Request, State
from bridge.config import Config
from bridge.errors import PermanentError
from bridge.job_spool import NodeSpool
from bridge.request import SandboxRequest
from bridge.runtimes.sandbox import SandboxSpec
from bridge.slurm import resources
from bridge.slurm.jobs import NodeShare
from bridge.slurm.resources import Resources
from validator import job_file, messages
from validator.limits import Limits


@dataclass(frozen=True)
class Part:
    """What a job asks for and who asks; the defaults are those of a job that says nothing.

    `job_id` 0 is no job's: Slurm begins with 1.
    """

    image: str = ""
    user: str = ""
    account: str = ""
    partition: str = ""
    job_id: int = 0
    resources: Resources = Resources()


def part_of(path: Path, config: Config) -> Part:
    """Read a job file; raises `PermanentError` with a sentence for each of its errors."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from error
    judged = job_file.validate(content, Limits(config.watcher.max_job_file_kib * 1024))
    if judged.errors:
        lines = [
            f"line {error.line or 1}: {messages.sentence(error, 'en')}" for error in judged.errors
        ]
        raise PermanentError(f"{path} is no job file that can run:\n" + "\n".join(lines))
    if not judged.directives.image:
        hint = "A line #K8S_IMAGE=registry:port/name:tag asks for one."
        raise PermanentError(f"{path} asks for no sandbox", hint=hint)
    options = judged.options
    try:
        wanted = resources.asked_for(options)
    except ValueError as error:
        raise PermanentError(f"{path}: its #SBATCH options cannot be read: {error}") from error
    return Part(
        judged.directives.image,
        account=options.account or "",
        partition=options.partition or "",
        resources=wanted,
    )


def this_node() -> str:
    """Return what an agent takes for its node's name."""
    return socket.gethostname().partition(".")[0]


def job_of(part: Part, config: Config, node: str) -> JobRun:
    """Return the job as its Prolog would have told of it; nothing is written.

    Raises `PermanentError` for a user that this machine does not know.
    """
    user = _account(part.user)
    others = ["other"] * (part.resources.nodes - 1)
    variables = {
        "SLURM_JOB_ID": str(part.job_id),
        "SLURM_JOB_UID": str(user.pw_uid),
        "SLURM_JOB_GID": str(user.pw_gid),
        "SLURM_JOB_USER": user.pw_name,
        "SLURM_JOB_ACCOUNT": part.account,
        "SLURM_JOB_PARTITION": part.partition,
        "SLURM_JOB_NODELIST": ",".join([node, *others]),
        "SLURM_JOB_GPUS": ",".join(map(str, range(part.resources.gpus))),
        "SLURM_JOB_COMMENT": SandboxRequest(image=part.image).word(),
    }
    request = Request.of(variables)
    spool = NodeSpool.of(config.agent.spool_dir, node).job(request.run)
    return JobRun(request, spool, State())


def specification(
    part: Part, job: JobRun, config: Config, node: str, slurmd_spool: Path | None
) -> SandboxSpec:
    """Return what the agent of `node` would have its runtime make.

    `slurmd_spool` is slurmd's folder, None when that is unknown. Raises `UserError`.
    """
    share = NodeShare(part.resources.cpus, part.resources.memory_mib)
    return blueprint.specification(job, config, node, share, slurmd_spool)


def with_resources(part: Part, cpus: int | None, memory: str | None, gpus: int | None) -> Part:
    """Return the part with other resources where they are given; raises ValueError."""
    wanted = part.resources
    changed = {
        "cpus": wanted.cpus if cpus is None else cpus,
        "memory_mib": wanted.memory_mib if memory is None else resources.memory_mib(memory),
        "gpus": wanted.gpus if gpus is None else gpus,
    }
    return replace(part, resources=replace(wanted, **changed))


@contextlib.contextmanager
def furnished(job: JobRun, config: Config, node: str) -> Iterator[None]:
    """Make the folders that the sandbox mounts, as the agent does, and remove them again.

    Raises `PermanentError` where that cannot be done, or when the node has such a job.
    """
    spool = NodeSpool.of(config.agent.spool_dir, node)
    with contextlib.ExitStack() as undo:
        for path in (config.agent.spool_dir, spool.root):
            if not path.exists():
                undo.callback(shutil.rmtree, path, ignore_errors=True)
        try:
            blueprint.furnish_node(spool, config.sandbox.init)
            job.spool.root.mkdir(mode=0o711)
            undo.callback(shutil.rmtree, job.spool.root, ignore_errors=True)
            undo.callback(spool.out_link(job.run.job_id).unlink, missing_ok=True)
            blueprint.furnish_job(job, spool, node)
            blueprint.introduce(job)
        except FileExistsError as error:
            hint = "Choose another --job-id."
            what = f"job {job.run.job_id} has a folder on node {node}"
            raise PermanentError(what, hint=hint) from error
        except OSError as error:
            raise _not_here(node, error) from error
        yield


def _not_here(node: str, error: OSError) -> PermanentError:
    hint = "Run this on the node itself, as root: the sandbox mounts folders that are made there."
    return PermanentError(f"node {node}'s folders cannot be made here: {error}", hint=hint)


def _account(name: str) -> pwd.struct_passwd:
    try:
        user = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise PermanentError(f"this machine knows no user {name or os.getuid()}") from error
    if user.pw_uid == 0:
        raise PermanentError("sandboxes do not run as root", hint="Name a user with --user.")
    return user
