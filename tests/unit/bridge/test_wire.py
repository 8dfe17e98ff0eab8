import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from bridge import wire
from bridge.wire import Message, WireError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_message_arrives_as_it_was_sent(pair: Pair) -> None:
    fields = [("env", b"A=1"), ("env", "한글=\xff".encode("latin-1", "replace")), ("empty", b"")]
    wire.send(pair[0], Message("enter", fields))
    message, descriptors = wire.receive(pair[1])
    assert message is not None
    assert (message.kind, message.fields, descriptors) == ("enter", fields, [])


def test_fields_are_found_by_key() -> None:
    message = Message("m", [("a", b"1"), ("b", b"2"), ("a", b"3"), ("odd", b"\xff")])
    assert message.first("a") == b"1"
    assert message.every("a") == [b"1", b"3"]
    assert message.first("none", b"default") == b"default"
    assert message.text("none") == ""
    assert message.text("odd") == "\udcff"


def test_several_messages_stay_apart(pair: Pair) -> None:
    for kind in ("one", "two", "three"):
        wire.send(pair[0], Message(kind))
    kinds = []
    for _ in range(3):
        message, _ = wire.receive(pair[1])
        assert message is not None
        kinds.append(message.kind)
    assert kinds == ["one", "two", "three"]


def test_the_end_between_two_messages_is_none(pair: Pair) -> None:
    wire.send(pair[0], Message("last"))
    pair[0].close()
    assert wire.receive(pair[1])[0] is not None
    assert wire.receive(pair[1]) == (None, [])


@pytest.mark.parametrize("sent", [b"\0", b"\0\0\0", b"\0\0\0\5", b"\0\0\0\5kin"])
def test_the_end_inside_a_message_is_an_error(pair: Pair, sent: bytes) -> None:
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(WireError, match="inside a message"):
        wire.receive(pair[1])


def test_a_message_over_the_limit_is_refused_before_it_is_read(pair: Pair) -> None:
    pair[0].sendall(struct.pack(">I", wire.MAX_MESSAGE_BYTES + 1))
    with pytest.raises(WireError, match="over the limit"):
        wire.receive(pair[1])


def test_a_field_without_equals_is_an_error(pair: Pair) -> None:
    pair[0].sendall(b"\0\0\0\7kind\0ab")
    with pytest.raises(WireError, match="without '='"):
        wire.receive(pair[1])


def test_a_silent_peer_runs_into_the_timeout(pair: Pair) -> None:
    pair[1].settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.receive(pair[1])


def test_a_message_larger_than_the_socket_buffer_arrives_whole(pair: Pair) -> None:
    value = os.urandom(1 << 20).replace(b"\0", b"\1") * 4
    sender = threading.Thread(target=wire.send, args=(pair[0], Message("big", [("v", value)])))
    sender.start()
    message, _ = wire.receive(pair[1])
    sender.join()
    assert message is not None
    assert message.first("v") == value


def test_descriptors_travel_with_the_message_and_do_not_survive_exec(pair: Pair) -> None:
    reader, writer = os.pipe()
    wire.send(pair[0], Message("take", [("n", b"2")]), [writer, reader])
    message, descriptors = wire.receive(pair[1])
    assert message is not None
    assert [os.get_inheritable(number) for number in descriptors] == [False, False]
    os.write(descriptors[0], b"through")
    assert os.read(reader, 7) == b"through"
    for number in (reader, writer):
        os.close(number)
    wire.close_all(descriptors)
    assert descriptors == []


def test_as_many_descriptors_as_allowed_travel_and_one_more_is_an_error(pair: Pair) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        wire.send(pair[0], Message("take"), [null] * wire.MAX_DESCRIPTORS)
        _, descriptors = wire.receive(pair[1])
        assert len(descriptors) == wire.MAX_DESCRIPTORS
        wire.close_all(descriptors)
        before = open_descriptors()
        wire.send(pair[0], Message("take"), [null] * (wire.MAX_DESCRIPTORS + 1))
        with pytest.raises(WireError, match="too many file descriptors"):
            wire.receive(pair[1])
        assert open_descriptors() == before
    finally:
        os.close(null)


def test_descriptors_that_came_with_a_broken_message_are_closed(pair: Pair) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    before = open_descriptors()
    rights = struct.pack("i", null)
    pair[0].sendmsg([b"\0\0\0\7"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    pair[0].sendall(b"kind\0ab")
    with pytest.raises(WireError):
        wire.receive(pair[1])
    assert open_descriptors() == before
    os.close(null)


def test_sending_to_a_peer_that_is_gone_is_an_os_error(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        wire.send(pair[0], Message("hello"))


def test_more_fields_than_a_command_line_has_are_refused_before_they_are_split(pair: Pair) -> None:
    payload = b"enter" + b"\0=" * (wire.MAX_FIELDS + 1)
    sender = threading.Thread(
        target=pair[0].sendall, args=(len(payload).to_bytes(4, "big") + payload,)
    )
    sender.start()
    with pytest.raises(WireError, match="environment variables are more than"):
        wire.receive(pair[1])
    sender.join()


def test_memory_is_paid_for_before_it_is_taken_and_a_field_costs_more_than_its_bytes(
    pair: Pair,
) -> None:
    paid: list[int] = []
    wire.send(pair[0], Message("enter", [("a", b"")] * 100))
    message, _ = wire.receive(pair[1], pay=paid.append)
    assert message is not None
    assert paid[0] >= 305
    assert paid[-1] >= 100 * 200


def test_a_message_that_cannot_be_paid_for_is_not_read(pair: Pair) -> None:
    def pay(cost: int) -> None:
        raise WireError(f"{cost} is too much")

    wire.send(pair[0], Message("enter", [("a", b"x" * 100)]))
    with pytest.raises(WireError, match="is too much"):
        wire.receive(pair[1], pay=pay)
    assert pair[1].recv(5) == b"enter"
