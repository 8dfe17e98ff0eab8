"""`sbridge kubernetes`: prepare a cluster for sandboxes, look at it, try a pod."""

import dataclasses
import re
import sys
from pathlib import Path

import click

from bridge.cli.cluster import cluster_options, connect, connect_as_agent, slurm_nodes
from bridge.cli.config import file_option, load
from bridge.cli.pod import pod

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def kubernetes() -> None:
    """Prepare a Kubernetes cluster for sandboxes, and look at it."""


@kubernetes.command()
@file_option
def render(file: Path | None) -> None:
    """Print the objects that the cluster needs, as YAML for `kubectl apply --server-side -f -`."""
    from bridge.runtimes.kubernetes import site, yaml_text

    click.echo(yaml_text.documents(site.objects(load(file))), nl=False)


@kubernetes.command()
@cluster_options
@click.option("--adopt", is_flag=True, help="Take over a namespace that is there already.")
def apply(file: Path | None, kubeconfig: str, context: str, adopt: bool) -> None:
    """Make these objects in the cluster, or make them what they should be."""
    from bridge.runtimes.kubernetes import installation, site

    config = load(file)
    api = connect(config, kubeconfig, context)
    if not adopt:
        installation.refuse_foreign(api, site.objects(config))
    refused = 0
    for outcome in installation.install(api, installation.objects(api, config)):
        click.echo(f"{outcome.done:<9}  {outcome.title}")
        if outcome.reason:
            refused += 1
            click.echo(f"           {outcome.reason}", err=True)
    if refused:
        raise SystemExit(1)


@kubernetes.command()
@cluster_options
def diff(file: Path | None, kubeconfig: str, context: str) -> None:
    """Show what `apply` would change; exit 1 if there is anything."""
    from bridge.runtimes.kubernetes import installation

    config = load(file)
    api = connect(config, kubeconfig, context)
    found = False
    for difference in installation.differences(api, installation.objects(api, config)):
        found = True
        click.echo(difference.text, nl=False)
    sys.exit(1 if found else 0)


@kubernetes.command()
@cluster_options
@click.option("--nodes", metavar="LIST", help="Slurm's nodes, as n[1-4]; default: ask Slurm.")
def check(file: Path | None, kubeconfig: str, context: str, nodes: str | None) -> None:
    """Say line by line what is right, what is wrong and what to do; exit 1 if anything is wrong."""
    from bridge.runtimes.kubernetes import checkup

    config = load(file)
    admin = connect(config, kubeconfig, context)
    wrong = 0
    answers = checkup.examine(
        admin, lambda: connect_as_agent(config), config, lambda: slurm_nodes(config, nodes)
    )
    for answer in answers:
        click.echo(f"{'ok   ' if answer.is_right else 'WRONG'}  {answer.text}")
        if answer.remedy:
            click.echo(f"       {answer.remedy}")
        wrong += not answer.is_right
    if wrong:
        click.echo(f"{wrong} of these lines are wrong." if wrong > 1 else "One line is wrong.")
        raise SystemExit(1)


@kubernetes.command("kubeconfig")
@cluster_options
@click.option(
    "--duration",
    default="365d",
    metavar="TIME",
    help="How long the token is to be valid, as 12h or 90d; default 365d.",
)
@click.option("--server", default="", metavar="URL", help="The API server as the nodes reach it.")
@click.option("--output", type=click.Path(path_type=Path), help="Replace this file, mode 0600.")
def make_kubeconfig(
    file: Path | None,
    kubeconfig: str,
    context: str,
    duration: str,
    server: str,
    output: Path | None,
) -> None:
    """Print a kubeconfig for the agents, with a new token."""
    from bridge.durable import write_atomically
    from bridge.runtimes.kubernetes import credentials, yaml_text

    duration_s = _seconds(duration)
    config = load(file)
    api = connect(config, kubeconfig, context)
    namespace = config.kubernetes.namespace
    address = dataclasses.replace(api.server, url=server) if server else api.server
    token = credentials.request_token(api, namespace, duration_s)
    text = yaml_text.document(credentials.kubeconfig(address, namespace, token))
    if output:
        write_atomically(output, text.encode())
    else:
        click.echo(text, nl=False)
    click.echo(f"The token ends at {token.expires:%Y-%m-%d %H:%M} UTC.", err=True)
    if token.is_shorter_than(duration_s):
        click.echo("That is sooner than asked for: the API server allows no more.", err=True)


def _seconds(text: str) -> int:
    from bridge.runtimes.kubernetes.credentials import SHORTEST_S

    match = re.fullmatch(r"([1-9]\d{0,8})([smhd])", text)
    if not match:
        raise click.BadParameter(f"{text!r} is no time such as 12h or 90d", param_hint="--duration")
    seconds = int(match[1]) * _UNITS_S[match[2]]
    if seconds < SHORTEST_S:
        raise click.BadParameter(
            "the API server makes none for less than 10m", param_hint="--duration"
        )
    return seconds


kubernetes.add_command(pod)
