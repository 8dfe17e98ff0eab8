"""checksums.txt: one line per published file, as `sha256sum -c` of GNU coreutils reads it."""

import os

NAME = "checksums.txt"
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def line(sha256: str, path: str) -> bytes:
    """Return the line of one file; `path` is relative to the folder that checksums.txt is in.

    A name with a backslash, newline or carriage return is escaped, and the line then begins
    with a backslash (coreutils manual, "md5sum invocation").
    """
    escaped = "".join(_ESCAPES.get(character, character) for character in path)
    mark = "\\" if escaped != path else ""
    return os.fsencode(f"{mark}{sha256}  {escaped}\n")
