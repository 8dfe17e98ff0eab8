"""`sbridge config`: look at the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bridge.config import Config

file_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file; default: $SBRIDGE_CONFIG, else /etc/sbridge/sbridge.toml.",
)


def load(file: Path | None) -> "Config":
    """Return the configuration in force; raises `ConfigError`."""
    from bridge import config_file

    return config_file.load(config_file.find_path(file))


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@file_option
def show(file: Path | None) -> None:
    """Print every setting in force, as TOML."""
    from bridge import config_file

    click.echo(config_file.show(load(file)), nl=False)


@config.command()
@file_option
def check(file: Path | None) -> None:
    """Say whether the configuration file is right; exit 78 with the reason if not."""
    from bridge import config_file

    load(file)
    click.echo(f"{config_file.find_path(file)}: all right")


@config.command()
def example() -> None:
    """Print a commented configuration file that shows every setting at its default."""
    from bridge import config_file

    click.echo(config_file.example(), nl=False)
