"""The messages between hooks, sbridge-run, agent and keeper, over a unix stream socket.

Standard library only, and as few modules of it as possible: hooks import this. A message
is a list of byte fields without NUL: the first one is its kind, the others `key=value`. On
the wire the fields are joined by NUL, behind their length as 4 bytes, big endian. File
descriptors travel (SCM_RIGHTS) with the length.
"""

# What `socket` wraps: that takes ten milliseconds to import, as much as all else of a hook's
# time. `array` and `struct` cost a few more, and what annotations name half of one.
import _socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Pay = Callable[[int], None]

# What a step may send: Linux allows arguments and environment of 6 MiB, and few open files.
MAX_MESSAGE_BYTES = 7 * 1024 * 1024
# Empty ones cost nine bytes each, so Linux would allow 700 thousand; a glob that is so long
# that it nearly fills those 6 MiB has a hundred thousand names.
MAX_FIELDS = 128 * 1024
MAX_DESCRIPTORS = 64
_BYTE_COST = 3  # a payload is there as it came, split, and as the fields' values
_FIELD_COST = 256  # Python's objects around one field
_INT_BYTES = 4  # a descriptor on the wire: C's int, which Linux has everywhere so

Fields = list[tuple[str, bytes]]


class WireError(Exception):
    """The peer sent something that is no message."""


class Message:
    """One message: a kind and its fields, in order; a key may stand several times."""

    def __init__(self, kind: str, fields: Fields | None = None) -> None:
        self.kind = kind
        self.fields = fields or []

    def first(self, key: str, default: bytes = b"") -> bytes:
        """Return the first value of `key`."""
        for name, value in self.fields:
            if name == key:
                return value
        return default

    def every(self, key: str) -> list[bytes]:
        """Return all values of `key`, in order."""
        return [value for name, value in self.fields if name == key]

    def text(self, key: str, default: str = "") -> str:
        """Return the first value of `key` as text; odd bytes become surrogates."""
        return self.first(key, default.encode()).decode("utf-8", "surrogateescape")


def send(
    connection: _socket.socket, message: Message, descriptors: list[int] | None = None
) -> None:
    """Send `message`, and `descriptors` with it; raises OSError when the peer is gone."""
    fields = [message.kind.encode()]
    fields += [key.encode() + b"=" + value for key, value in message.fields]
    payload = b"\0".join(fields)
    header = len(payload).to_bytes(4, "big")
    if descriptors:
        rights = b"".join(number.to_bytes(_INT_BYTES, sys.byteorder) for number in descriptors)
        connection.sendmsg([header], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        connection.sendall(payload)
    else:
        connection.sendall(header + payload)


def receive(
    connection: _socket.socket,
    max_bytes: int = MAX_MESSAGE_BYTES,
    max_descriptors: int = MAX_DESCRIPTORS,
    max_fields: int = MAX_FIELDS,
    pay: "Pay" = lambda _cost: None,
) -> tuple[Message | None, list[int]]:
    """Receive the next message and the descriptors that came with it (close-on-exec).

    As `receive_payload`, and raises `WireError` when it is no message.
    """
    payload, descriptors = receive_payload(connection, max_bytes, max_descriptors, max_fields, pay)
    if payload is None:
        return None, []
    try:
        return parse(payload), descriptors
    except BaseException:
        close_all(descriptors)
        raise


def receive_payload(
    connection: _socket.socket,
    max_bytes: int = MAX_MESSAGE_BYTES,
    max_descriptors: int = MAX_DESCRIPTORS,
    max_fields: int = MAX_FIELDS,
    pay: "Pay" = lambda _cost: None,
) -> tuple[bytes | None, list[int]]:
    """Receive what `parse` makes a message of, and the descriptors that came with it.

    Calls `pay` with the bytes of memory that are about to be taken; what it raises ends this.
    Returns (None, []) when the peer closed the connection between two messages. Raises
    `WireError` when it sent no message or closed in the middle, OSError (TimeoutError) as
    the socket does. Descriptors that came with a broken message are closed.
    """
    descriptors: list[int] = []
    try:
        header = _receive_header(connection, descriptors, max_descriptors)
        if not header:
            return None, []
        length = int.from_bytes(header, "big")
        if length > max_bytes:
            raise WireError(f"a message of {length} bytes is over the limit")
        pay(length * _BYTE_COST)
        payload = _receive_exactly(connection, length, pay)
        count = payload.count(b"\0")
        if count > max_fields:
            raise WireError(
                f"{count} arguments and environment variables are more than {max_fields}"
            )
        pay(count * _FIELD_COST)
        return payload, descriptors
    except BaseException:
        close_all(descriptors)
        raise


def close_all(descriptors: list[int]) -> None:
    """Close every descriptor of the list and empty it."""
    while descriptors:
        _socket.close(descriptors.pop())


def _receive_header(connection: _socket.socket, descriptors: list[int], most: int) -> bytes:
    header = b""
    space = _socket.CMSG_SPACE(most * _INT_BYTES)
    while len(header) < 4:
        chunk, ancillary, flags, _ = connection.recvmsg(
            4 - len(header), space, _socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptors.extend(
                    int.from_bytes(data[at : at + _INT_BYTES], sys.byteorder)
                    for at in range(0, len(data) - len(data) % _INT_BYTES, _INT_BYTES)
                )
        if flags & _socket.MSG_CTRUNC:
            raise WireError("too many file descriptors in one message")
        if not chunk:
            if header:
                raise WireError("the peer closed the connection inside a message")
            break
        header += chunk
    return header


def _receive_exactly(connection: _socket.socket, length: int, pay: "Pay") -> bytes:
    payload = bytearray()
    while len(payload) < length:
        pay(0)
        chunk = connection.recv(min(length - len(payload), 1 << 18))
        if not chunk:
            raise WireError("the peer closed the connection inside a message")
        payload += chunk
    return bytes(payload)


def kind_of(payload: bytes) -> str:
    """Return the kind of a message that is not parsed yet."""
    return payload.partition(b"\0")[0].decode("ascii", "replace")


def parse(payload: bytes) -> Message:
    """Return the message; raises `WireError` when it is none."""
    kind, *fields = payload.split(b"\0")
    pairs: Fields = []
    for field in fields:
        key, separator, value = field.partition(b"=")
        if not separator:
            raise WireError("a field without '='")
        pairs.append((key.decode("ascii", "replace"), value))
    return Message(kind.decode("ascii", "replace"), pairs)
