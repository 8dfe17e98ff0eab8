"""What a site allows in a job file."""

from dataclasses import dataclass

RUNTIMES = ("kubernetes", "podman", "apptainer", "host")


@dataclass(frozen=True)
class Limits:
    """The bounds that a job file is judged by.

    `max_bytes` is the largest job file; `runtimes` are what #K8S_RUNTIME may ask for.
    """

    max_bytes: int = 4 * 1024 * 1024
    runtimes: tuple[str, ...] = RUNTIMES
