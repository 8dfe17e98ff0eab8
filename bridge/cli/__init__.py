"""The `sbridge` command: thin, and each subcommand imports what it needs only when it runs.

Exit codes: 0 done, 1 failed, 2 wrong usage (click's), 78 the configuration is wrong
(EX_CONFIG of sysexits.h), 130 and 143 ended by Ctrl-C or SIGTERM, after cleaning up.
"""

import sys

import click

from bridge.cli.config import config
from bridge.cli.images import images
from bridge.cli.kubernetes import kubernetes
from bridge.errors import ConfigError, SbridgeError
from bridge.version import VERSION

EXIT_FAILED = 1
EXIT_CONFIG = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="sbridge", message="%(prog)s %(version)s")
def cli() -> None:
    """Slurm jobs inside sandboxes, with a NAS folder as front door and archive."""


cli.add_command(config)
cli.add_command(kubernetes)
cli.add_command(images)


def main() -> None:
    """Run the command line and exit; an error that was foreseen is told, with its hint."""
    try:
        cli(prog_name="sbridge")
    except SbridgeError as error:
        click.echo(f"sbridge: {error.message}", err=True)
        if error.hint:
            click.echo(error.hint, err=True)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)
