"""`sbridge images`: which node has which image, and bring them there before jobs need them."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.cluster import cluster_options, connect, slurm_nodes
from bridge.cli.config import load
from bridge.errors import PermanentError

if TYPE_CHECKING:
    from bridge.config import Config
    from bridge.runtimes.kubernetes.api import Object
    from bridge.runtimes.kubernetes.images import Pulled


@click.group()
def images() -> None:
    """Look at the images of a Kubernetes cluster's nodes, and bring them there."""


@images.command()
@cluster_options
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--nodes", metavar="LIST", help="Slurm's nodes, as n[1-4]; default: all of Slurm's.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, help="Nodes at once; default 4.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 7 * 86400),
    default=1800.0,
    metavar="SECONDS",
    help="For one image on one node; default 1800.",
)
def pull(
    file: Path | None,
    kubeconfig: str,
    context: str,
    names: tuple[str, ...],
    nodes: str | None,
    parallel: int,
    timeout: float,
) -> None:
    """Have nodes fetch images as the registry has them now; exit 1 unless all came."""
    from bridge.cli.interruption import Interruption
    from bridge.runtimes.kubernetes import images as node_images
    from bridge.runtimes.kubernetes import short_lived

    config = load(file)
    wanted = _kubernetes_nodes(config, nodes)
    api = connect(config, kubeconfig, context)
    targets = _chosen(api.get("/api/v1/nodes")["items"], wanted)
    short_lived.sweep(api, config.kubernetes.namespace)
    interruption = Interruption()
    report = _Report(len(targets) * len(names))
    all_came = node_images.pull(
        api,
        config.kubernetes,
        names,
        targets,
        parallel,
        timeout,
        interruption.event,
        report.tell,
    )
    click.echo(f"{report.came} of {report.wanted} are there.")
    raise SystemExit(interruption.exit_code or (0 if all_came else 1))


class _Report:
    """Prints results, and the progress of each node on stderr; for several threads."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.came = 0
        self._lock = threading.Lock()

    def tell(self, news: "Pulled | tuple[str, str]") -> None:
        with self._lock:
            if isinstance(news, tuple):
                click.echo(f"{news[0]}: {news[1]}", err=True)
            elif news.trouble:
                click.echo(f"{news.node}  {news.image}  FAILED: {news.trouble}")
            else:
                self.came += 1
                how = f"pulled in {news.pull}" if news.pull.took else "is there"
                click.echo(f"{news.node}  {news.image}  {how}")


@images.command("list")
@cluster_options
@click.option(
    "--image", "pattern", default="*", metavar="PATTERN", help="Only these, as */alpine:*."
)
@click.option("--nodes", metavar="LIST", help="Only Slurm's nodes, as n[1-4]; default: all nodes.")
def show(file: Path | None, kubeconfig: str, context: str, pattern: str, nodes: str | None) -> None:
    """Show the images that nodes have: size, name, Kubernetes' names of the nodes."""
    from bridge.runtimes.kubernetes import images as node_images

    config = load(file)
    found = connect(config, kubeconfig, context).get("/api/v1/nodes")["items"]
    if nodes:
        found = _chosen(found, _kubernetes_nodes(config, nodes))
    for image in node_images.listed(found, pattern):
        click.echo(f"{image.size:>10}  {image.title}  {' '.join(image.nodes)}")
    partial = node_images.incomplete(found)
    if partial:
        click.echo(
            f"Kubelets report their {node_images.MOST_REPORTED} largest images only"
            f" (nodeStatusMaxImages), so there may be more on: {' '.join(partial)}",
            err=True,
        )


def _kubernetes_nodes(config: "Config", hostlist: str | None) -> list[str]:
    """Return Kubernetes' names, each once: several Slurm nodes may share one."""
    from bridge.runtimes.manifest import kubernetes_node

    nodes = slurm_nodes(config, hostlist)
    if not nodes:
        raise PermanentError("Slurm has no nodes", hint="Name some with --nodes.")
    return list(dict.fromkeys(kubernetes_node(config.kubernetes, node) for node in nodes))


def _chosen(nodes: "list[Object]", names: list[str]) -> "list[Object]":
    """Return the nodes of these names; raises `PermanentError` when one is not there."""
    known = {node["metadata"]["name"]: node for node in nodes}
    strange = [name for name in names if name not in known]
    if strange:
        raise PermanentError(
            f"the cluster has no node {', '.join(strange)} (it has: {', '.join(sorted(known))})",
            hint="kubernetes.node_names says how Slurm's nodes are called there.",
        )
    return [known[name] for name in names]
