"""The mark by which sbridge-run knows that it is a task of srun, and where that shall run.

`sbridge-run --task=<directory> PROGRAM [ARGUMENT…]`: the arguments are exactly the program's,
and the directory is one of the sandbox. No word of the mark needs quoting anywhere, not even in
the files of `srun --multi-prog`. native/run/script.c reads it.
"""

MARK = "--task="
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+,@")


def quote(directory: str) -> str:
    """Write a directory in plain characters: others become =XX."""
    data = directory.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data)
