"""`sbridge-watcher`: read the configuration, take the state folder, watch."""

import argparse
import sys
from pathlib import Path

from bridge import config_file, log
from bridge.errors import ConfigError, SbridgeError
from watcher.daemon import Watcher
from watcher.locks import StateFolder

_EX_CONFIG = 78


def main(arguments: list[str] | None = None) -> int:
    """Run the watcher until SIGTERM; return its exit code (78: configuration, 1: other)."""
    parser = argparse.ArgumentParser(
        prog="sbridge-watcher", description="Takes job files from the NAS to Slurm."
    )
    parser.add_argument("--config", type=Path, help="the configuration file (TOML)")
    options = parser.parse_args(arguments)
    try:
        settings = config_file.load(config_file.find_path(options.config))
        state = StateFolder(settings.watcher.state_dir)
        logger = log.start(settings.logging, "watcher")
    except ConfigError as error:
        print(f"sbridge-watcher: {error}", file=sys.stderr)
        return _EX_CONFIG
    except SbridgeError as error:
        print(f"sbridge-watcher: {error}", file=sys.stderr)
        return 1
    try:
        Watcher(settings, state, logger).run()
    finally:
        state.close()
    logger.info("watcher_stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
