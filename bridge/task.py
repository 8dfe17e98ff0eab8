"""The mark by which sbridge-run knows that it is a task of srun, and where that shall run.

`sbridge-run --task=<directory> PROGRAM [ARGUMENT…]`: the arguments are exactly the program's,
and the directory is one of the sandbox. No word of the mark needs quoting anywhere, not even in
the files of `srun --multi-prog`.
"""

MARK = "--task="
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+,@")


def quote(directory: str) -> str:
    """Write a directory in plain characters: others become =XX."""
    data = directory.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data)


def directory_of(word: bytes) -> bytes | None:
    """Return the directory that the mark names, None when `word` is no mark."""
    if not word.startswith(MARK.encode()):
        return None
    first, *rest = word[len(MARK) :].split(b"=")
    try:
        return first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest)
    except ValueError:
        return None
