"""Judge job files: bytes and limits in, findings out; no I/O and no clock."""
