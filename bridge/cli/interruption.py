"""Ctrl-C and SIGTERM as an event, so that what was begun is first ended in order."""

import signal
import threading
from types import FrameType

import click


class Interruption:
    """Set by the first signal; `exit_code` is then what a shell expects."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.exit_code = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._noted)

    def _noted(self, number: int, _frame: FrameType | None) -> None:
        if not self.event.is_set():
            click.echo("Stopping; what was made is being removed.", err=True)
        self.exit_code = 128 + number
        self.event.set()
