"""The errors that cross a module border, each named after who must act."""

from validator.errors import SbridgeError

__all__ = [
    "CommandError",
    "ConfigError",
    "NodeError",
    "PermanentError",
    "SbridgeError",
    "TemporaryError",
]

_TAIL_CHARACTERS = 2000


class ConfigError(SbridgeError):
    """The administrator must change the configuration; names the file and the key."""


class TemporaryError(SbridgeError):
    """Nobody's fault and worth another try after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float = 5.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class PermanentError(SbridgeError):
    """Trying again cannot help; the text says what would."""


class NodeError(SbridgeError):
    """This node cannot do its part, whatever the job; drain it and let the job go elsewhere."""


class CommandError(SbridgeError):
    """An external command failed.

    `exit_code` is the wait status as Python's subprocess gives it: negative for a
    signal, None when the command could not be started or did not end in time.
    """

    def __init__(self, argv: list[str], exit_code: int | None, stderr: str, reason: str) -> None:
        self.argv = argv
        self.exit_code = exit_code
        self.stderr_tail = stderr[-_TAIL_CHARACTERS:].strip()
        detail = f": {self.stderr_tail}" if self.stderr_tail else ""
        super().__init__(f"{argv[0]} {reason}{detail}")
