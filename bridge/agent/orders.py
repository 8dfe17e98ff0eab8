"""What the keeper of a task is told of it: whose it is, and what shall run how."""

import os
from pathlib import Path

from bridge import kernel, wire
from bridge.agent import blueprint, pmix, rendezvous, shim
from bridge.agent.job import JobRun
from bridge.agent.this_node import ThisNode
from bridge.job_spool import slurmd_script


def of(message: wire.Message, caller: int, pid: int, job: JobRun, node: ThisNode) -> wire.Fields:
    """Return the orders for a step that asks by `message`; `caller` is the /proc folder of `pid`.

    Raises `TemporaryError` where only Slurm knows one, and cannot be asked.
    """
    asked = job.request.asked
    directories = [asked.workdir.encode(), message.first("cwd")]
    if message.first("task"):
        directories.reverse()  # where srun was started comes first
    door = f"{pid}-{kernel.start_ticks(caller)}"
    orders: wire.Fields = [
        ("uid", b"%d" % job.request.uid),
        ("warnings", os.fsencode(job.spool.warnings)),
        ("usage", os.fsencode(job.spool.usage)),
        ("task", message.first("task")),
        ("door", os.fsencode(job.spool.steps / door)),
        ("bin_dir", os.fsencode(node.config.slurm.bin_dir)),
        ("runner", message.first("runner")),
        ("job", b"%d" % job.run.job_id),
    ]
    orders += [("cwd", directory) for directory in directories if directory]
    orders += [("fd", number) for number in message.every("fd")]
    orders += [("arg", argument) for argument in message.every("arg")]
    script = _script_copy(message, job, node)
    given = rendezvous.extended(message.every("env"), job, is_batch=script is not None)
    orders += [("env", pair) for pair in _environment(given, job, door)]
    folder = pmix.folder_name(given)
    if folder:
        orders += pmix.orders(folder, node.slurmd_spool, job.spool.slurmd)
    orders += file_to_run(message, job)
    if script is not None:
        orders.append(("script_copy", os.fsencode(script)))
    return orders


def file_to_run(message: wire.Message, job: JobRun) -> wire.Fields:
    """Return the file that runs in place of a batch script without a command, if one is named."""
    file = job.request.asked.script if message.first("idle") else ""
    return [("file", file.encode())] if file else []


def _script_copy(message: wire.Message, job: JobRun, node: ThisNode) -> Path | None:
    """Return where the sandbox shows the batch script, if this step runs it."""
    if not message.first("script"):
        return None
    script = slurmd_script(job.run.job_id)
    if os.fsencode(node.slurmd_spool / script) not in message.every("arg"):
        return None
    return job.spool.slurmd / script


def _environment(given: list[bytes], job: JobRun, door: str) -> list[bytes]:
    return blueprint.environment(given, job.state.sandbox, job, f"{shim.DOORS}/{door}")
