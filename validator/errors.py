"""The root of every error that sbridge raises on purpose."""


class SbridgeError(Exception):
    """A failure that sbridge foresaw; its text tells the reader what to do.

    Anything that is not an `SbridgeError` and reaches the top is a bug.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
