"""Log as JSON lines: one event per line, facts as keys (structlog).

An event is a constant in the past tense; who and what are keys: `job_id`, `node`,
`sandbox`, `duration_s`, `reason`.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog

from bridge.config import Logging
from bridge.errors import ConfigError


def start(settings: Logging, component: str, **identity: Any) -> Any:
    """Open <dir>/<component>.log and return a logger bound to `identity`.

    Errors also go to stderr (the journal). Raises `ConfigError` when the folder cannot be
    written to.
    """
    path = settings.dir / f"{component}.log"
    try:
        settings.dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        file = _open(path)
    except OSError as error:
        raise ConfigError(f"logging.dir: {path} cannot be written to: {error.strerror}") from error
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings.level)),
        logger_factory=structlog.WriteLoggerFactory(_Sink(file)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger(component=component, **identity)


class _Sink:
    """A line-buffered file whose error lines are repeated on stderr."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line)
        if '"level": "error"' in line or '"level": "critical"' in line:
            sys.stderr.write(line)

    def flush(self) -> None:
        self._file.flush()


def _open(path: Path) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o640), "a", encoding="utf-8", errors="backslashreplace")


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name.upper()]
