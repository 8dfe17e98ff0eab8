"""The `sbridge` command: thin, and each subcommand imports what it needs only when it runs.

Exit codes: 0 done, 1 failed, 2 wrong usage (click's), 78 the configuration is wrong
(EX_CONFIG of sysexits.h).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.errors import ConfigError, SbridgeError
from bridge.version import VERSION

if TYPE_CHECKING:
    from bridge.config import Config

EXIT_FAILED = 1
EXIT_CONFIG = 78

_file_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file; default: $SBRIDGE_CONFIG, else /etc/sbridge/sbridge.toml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="sbridge", message="%(prog)s %(version)s")
def cli() -> None:
    """Slurm jobs inside sandboxes, with a NAS folder as front door and archive."""


@cli.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@_file_option
def show(file: Path | None) -> None:
    """Print every setting in force, as TOML."""
    from bridge.config import show as show_config

    click.echo(show_config(_load(file)), nl=False)


@config.command()
@_file_option
def check(file: Path | None) -> None:
    """Say whether the configuration file is right; exit 78 with the reason if not."""
    from bridge.config import find_path

    _load(file)
    click.echo(f"{find_path(file)}: all right")


@config.command()
def example() -> None:
    """Print a commented configuration file that shows every setting at its default."""
    from bridge.config import example as config_example

    click.echo(config_example(), nl=False)


def main() -> None:
    """Run the command line and exit; an error that was foreseen is told, with its hint."""
    try:
        cli(prog_name="sbridge")
    except SbridgeError as error:
        click.echo(f"sbridge: {error.message}", err=True)
        if error.hint:
            click.echo(error.hint, err=True)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)


def _load(file: Path | None) -> "Config":
    from bridge.config import find_path, load

    return load(find_path(file))


if __name__ == "__main__":
    main()
