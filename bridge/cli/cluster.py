"""How the commands find a Kubernetes cluster, and the Slurm nodes that it serves."""

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.config import file_option
from bridge.errors import ConfigError, TemporaryError

if TYPE_CHECKING:
    from bridge.config import Config
    from bridge.runtimes.kubernetes.api import Api


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options by which an administrator names a cluster and himself."""
    kubeconfig = click.option(
        "--kubeconfig",
        metavar="FILE",
        default="",
        help="Your own credentials; default: $KUBECONFIG, else the configuration's.",
    )
    context = click.option("--context", default="", metavar="NAME", help="Its context.")
    return file_option(kubeconfig(context(command)))


def connect(config: "Config", kubeconfig: str, context: str) -> "Api":
    """Return the cluster with an administrator's credentials; raises `ConfigError`."""
    from bridge.runtimes.kubernetes.api import Api

    settings = config.kubernetes
    chosen = kubeconfig or os.environ.get("KUBECONFIG", "")
    if chosen:  # the configured context is one of another file
        settings = dataclasses.replace(settings, kubeconfig=chosen, context=context)
    else:
        settings = dataclasses.replace(settings, context=context or settings.context)
    try:
        return Api(settings)
    except ConfigError as error:
        raise ConfigError(error.message, hint="Name your own with --kubeconfig.") from error


def connect_as_agent(config: "Config") -> "Api | None":
    """Return the cluster as the agent sees it, if its credentials can be read here.

    Raises `ConfigError` when they can and are none.
    """
    from bridge.runtimes.kubernetes.api import Api

    is_here = os.access(config.kubernetes.kubeconfig, os.R_OK)
    return Api(config.kubernetes) if is_here else None


def slurm_nodes(config: "Config", hostlist: str | None) -> list[str]:
    """Return the nodes of a hostlist, or all of Slurm's; raises `TemporaryError`.

    Raises `click.BadParameter`, too: the hostlist is the option --nodes.
    """
    from bridge.slurm.hostlist import expand_hostlist
    from bridge.slurm.jobs import SlurmControl

    if hostlist:
        try:
            return expand_hostlist(hostlist)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--nodes") from error
    try:
        return SlurmControl(config.slurm).nodes()
    except TemporaryError as error:
        raise TemporaryError(error.message, hint="Name the nodes with --nodes.") from error
