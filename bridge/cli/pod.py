"""`sbridge kubernetes pod`: the pod that an agent would make, without Slurm."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.cluster import cluster_options, connect
from bridge.cli.config import load
from bridge.errors import TemporaryError

if TYPE_CHECKING:
    from bridge.agent.job import JobRun
    from bridge.agent.rehearsal import Part
    from bridge.config import Config

_LAST_JOB = 0x03FFFFFF  # Slurm's MAX_JOB_ID
_LONGEST_S = 7 * 86400.0


@click.command()
@cluster_options
@click.argument("job_file", required=False, type=click.Path(path_type=Path), metavar="[JOBFILE]")
@click.option("--image", help="The image, instead of the job file's.")
@click.option("--cpus", type=click.IntRange(1, 65535), help="CPUs on the node.")
@click.option("--memory", metavar="AMOUNT", help="Memory on the node, such as 8G; 0 for no limit.")
@click.option(
    "--gpus", type=click.IntRange(0, 1024), help="GPUs on the node; their indices begin at 0."
)
@click.option(
    "--job-id", type=click.IntRange(0, _LAST_JOB), help="The job's number; default 0, no job's."
)
@click.option("--user", help="Whose job it is; default: you.")
@click.option("--account", help="The job's account.")
@click.option("--partition", help="The job's partition.")
@click.option("--node", help="Slurm's name of the node; default: this machine's.")
@click.option(
    "--apply", "is_applied", is_flag=True,
    help="Create it, show what happens until it runs, and remove it. On the node, as root.",
)  # fmt: skip
@click.option(
    "--timeout",
    type=click.FloatRange(1, _LONGEST_S),
    default=120.0,
    metavar="SECONDS",
    help="How long it may take to run.",
)
def pod(
    file: Path | None,
    kubeconfig: str,
    context: str,
    job_file: Path | None,
    node: str | None,
    is_applied: bool,
    timeout: float,
    **options: Any,
) -> None:
    """Print the exact pod that the agent would create for a job, as YAML.

    The job is that of JOBFILE or of the options, which go before it. With --apply the pod
    also gets a label, so that no agent takes it for its own, and a deadline.
    """
    from bridge.agent import rehearsal
    from bridge.runtimes import manifest
    from bridge.runtimes.kubernetes import yaml_text

    config = load(file)
    part = _part(config, job_file, options)
    node = node or rehearsal.this_node()
    job = rehearsal.job_of(part, config, node)
    spec = rehearsal.specification(part, job, config, node, _slurmd_spool(config, node))
    wanted = manifest.pod(spec, manifest.Site.of(config.kubernetes, node))
    if not is_applied:
        click.echo(yaml_text.document(wanted), nl=False)
        return
    _apply(config, (kubeconfig, context), job, node, wanted, timeout)


def _part(config: "Config", job_file: Path | None, options: dict[str, Any]) -> "Part":
    from bridge.agent import rehearsal

    if not job_file and not options["image"]:
        raise click.UsageError("Name a job file, or an image with --image.")
    part = rehearsal.part_of(job_file, config) if job_file else rehearsal.Part()
    amounts = [options.pop(name) for name in ("cpus", "memory", "gpus")]
    try:
        part = rehearsal.with_resources(part, *amounts)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--memory") from error
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(part, **given)


def _slurmd_spool(config: "Config", node: str) -> Path | None:
    """Return where slurmd puts scripts, which the sandbox sees; without Slurm that is left out."""
    from bridge.slurm.jobs import SlurmControl

    try:
        return SlurmControl(config.slurm).slurmd_spool_dir(node)
    except TemporaryError:
        click.echo(
            "# Slurm cannot be asked, so the mount of the job's script is missing.", err=True
        )
        return None


def _apply(
    config: "Config",
    credentials: tuple[str, str],
    job: "JobRun",
    node: str,
    wanted: dict[str, Any],
    timeout_s: float,
) -> None:
    from bridge.agent import rehearsal
    from bridge.cli.interruption import Interruption
    from bridge.runtimes.kubernetes import short_lived, trial

    api = connect(config, *credentials)
    interruption = Interruption()
    with rehearsal.furnished(job, config, node):
        namespace = config.kubernetes.namespace
        try:
            trial.run(api, namespace, wanted, timeout_s, interruption.event, click.echo)
        except short_lived.CancelledError:
            raise SystemExit(interruption.exit_code) from None
