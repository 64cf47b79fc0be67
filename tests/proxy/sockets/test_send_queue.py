"""The queue of one socket: every message whole and in order, however little is taken, and its descriptor once."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.sockets.descriptors import Descriptor
from qmpguard.proxy.sockets.send_queue import WRITE_SIZE, LongMessage, SendQueue
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def queue(*messages: bytes | LongMessage, descriptor: int | None = None) -> SendQueue:
    """Return a queue with some messages; the last one has a descriptor."""
    found = SendQueue()
    for message in messages:
        found.messages.append((message, None))
        found.size += message.size if isinstance(message, LongMessage) else len(message)
    if descriptor is not None:
        found.messages[-1] = (found.messages[-1][0], Descriptor(os.dup(descriptor)))
    return found


def long(*pieces: bytes) -> LongMessage:
    return LongMessage(iter(pieces), sum(map(len, pieces)))


def passed(found: SendQueue, pair: Pair) -> tuple[bytes, int]:
    """Send all, reading whenever the socket is full; return the bytes, and how many descriptors came."""
    ours, theirs = pair
    data, count = b"", 0
    while found.messages:
        found.send(ours)
        try:
            while True:
                more, numbers, _, _ = socket.recv_fds(theirs, 1 << 20, 10)
                data += more
                count += len(numbers)
                for number in numbers:
                    os.close(number)
        except BlockingIOError:
            pass
    assert found.size == 0
    return data, count


@pytest.mark.parametrize("size", [1, 1000, 3 * WRITE_SIZE])
def test_messages_are_sent_whole_and_in_order(size: int, pair: Pair) -> None:
    messages = [bytes([65 + i]) * size for i in range(5)]
    assert passed(queue(*messages), pair) == (b"".join(messages), 0)


def test_small_messages_leave_together_up_to_one_write(pair: Pair) -> None:
    found = queue(*[b"x" * 1000] * 300)
    assert found.send(pair[0]) in (True, False)
    assert len(found.messages) <= 300 - WRITE_SIZE // 1000


def test_a_full_socket_keeps_what_is_left(pair: Pair) -> None:
    found = queue(b"x" * (8 << 20))
    while found.send(pair[0]) or found.size == 8 << 20:
        pass
    assert 0 < found.size < 8 << 20
    assert not found.send(pair[0])
    assert len(found.messages[0][0]) == found.size


def test_a_descriptor_goes_with_the_first_byte_of_its_message_and_is_closed(pair: Pair) -> None:
    read, write = os.pipe()
    before = open_files()
    found = queue(b"before", b"with", descriptor=read)
    assert passed(found, pair) == (b"beforewith", 1)
    assert not opened_since(before)
    os.close(read)
    os.close(write)


def test_messages_are_not_joined_across_a_descriptor(pair: Pair) -> None:
    found = queue(b"a", b"b", descriptor=0)
    found.messages.append((b"c", None))
    found.size += 1
    assert found.send(pair[0])
    assert pair[1].recv(10) == b"a"
    assert found.send(pair[0])
    data, numbers, _, _ = socket.recv_fds(pair[1], 10, 1)
    assert (data, len(numbers)) == (b"b", 1)
    os.close(numbers[0])
    assert found.send(pair[0])
    assert pair[1].recv(10) == b"c"


def test_a_long_message_is_made_as_it_is_sent_and_counts_until_its_last_byte(pair: Pair) -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(4):
            made.append(number)
            yield bytes([65 + number]) * 10

    found = queue(LongMessage(pieces(), 40), b"behind")
    assert found.begins_with_long
    assert not found.send(pair[0]), "others are to have their turn"
    assert made == [0, 1], "one piece is made ahead, so that the last one is known"
    assert found.size >= 40
    assert passed(found, pair) == (b"".join(bytes([65 + i]) * 10 for i in range(4)) + b"behind", 0)
    assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("pieces", [[], [b"one"], [b"one", b"two"]])
def test_a_long_message_may_be_short(pieces: list[bytes], pair: Pair) -> None:
    assert passed(queue(long(*pieces), b"x"), pair) == (b"".join(pieces) + b"x", 0)


def test_the_descriptor_of_a_long_message_goes_with_its_first_piece(pair: Pair) -> None:
    found = queue(long(b"one", b"two"), descriptor=0)
    found.send(pair[0])
    data, numbers, _, _ = socket.recv_fds(pair[1], 10, 1)
    assert (data, len(numbers)) == (b"one", 1)
    os.close(numbers[0])
    assert passed(found, pair) == (b"two", 0)


def test_clearing_drops_messages_and_closes_descriptors() -> None:
    before = open_files()
    found = queue(b"a", long(b"b"), b"c", descriptor=0)
    found.clear()
    assert (found.size, len(found.messages), found.begins_with_long) == (0, 0, False)
    assert not opened_since(before)


def test_a_closed_socket_is_an_error_of_the_system_and_no_signal(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        queue(b"x").send(pair[0])
