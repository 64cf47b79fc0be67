"""Receiving: bytes with the descriptors that came with them, each owned once, or one error and none of them open."""

from __future__ import annotations

import os
import resource
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets import receiving
from qmpguard.proxy.sockets.descriptors import Descriptor, close_all
from qmpguard.proxy.sockets.receiving import MAX_FDS, DescriptorError, of_thread, receive
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def received(sock: socket.socket, size: int = 1000) -> tuple[bytes, list[Descriptor]]:
    return receive(sock, memoryview(bytearray(size)))


class Odd:
    """A socket whose ancillary data is what a test says."""

    def __init__(self, ancillary: list[tuple[int, int, bytes]], flags: int = 0) -> None:
        self.result = (1, ancillary, flags, None)

    def recvmsg_into(self, *_: object) -> object:
        return self.result


def test_bytes_come_as_they_are_and_at_the_end_none(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"\x00bytes")
    assert received(ours) == (b"\x00bytes", [])
    theirs.close()
    assert received(ours) == (b"", [])


def test_no_more_is_taken_than_the_buffer_holds_and_it_is_copied_out(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abcdef")
    buffer = memoryview(bytearray(4))
    first, _ = receive(ours, buffer)
    second, _ = receive(ours, buffer)
    assert (first, second) == (b"abcd", b"ef")


def test_where_nothing_has_come_the_system_says_so(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        received(pair[0])


@pytest.mark.parametrize("count", [1, 3, MAX_FDS])
def test_descriptors_come_in_their_order_and_are_closed_on_exec(pair: Pair, count: int) -> None:
    ours, theirs = pair
    read, write = os.pipe()
    before = open_files()
    socket.send_fds(theirs, [b"x"], [write] * count)
    data, found = received(ours)
    assert (data, len(found)) == (b"x", count)
    assert not any(os.get_inheritable(descriptor.fileno()) for descriptor in found)
    os.write(found[-1].fileno(), b"through")
    assert os.read(read, 100) == b"through"
    close_all(found)
    assert not opened_since(before)
    os.close(read)
    os.close(write)


def test_where_the_kernel_has_dropped_some_none_is_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    before = open_files()
    socket.send_fds(theirs, [b"x"], [0, 1, 2])
    monkeypatch.setattr(receiving, "_ANCILLARY", socket.CMSG_SPACE(struct.calcsize("i")))
    with pytest.raises(DescriptorError) as caught:
        received(ours)
    assert caught.value.reason is CloseReason.LOST_DESCRIPTORS
    assert not opened_since(before)


def test_in_the_reserved_part_of_the_table_none_is_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    before = open_files()
    socket.send_fds(theirs, [b"x"], [0, 1])
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    with pytest.raises(DescriptorError, match="almost none left") as caught:
        received(ours)
    assert caught.value.reason is CloseReason.NO_DESCRIPTORS
    assert not opened_since(before)


def test_bytes_that_are_no_whole_descriptor_and_other_ancillary_data_are_passed_over() -> None:
    read, write = os.pipe()
    odd = Odd(
        [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", read) + b"\x01"),
            (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", 1, 2, 3)),
        ]
    )
    _, found = receive(odd, memoryview(bytearray(4)))  # type: ignore[arg-type]
    assert [descriptor.fileno() for descriptor in found] == [read]
    with closing(found[0]):
        os.close(write)


def test_the_streams_of_a_thread_share_one_buffer_and_those_of_another_thread_do_not() -> None:
    with ThreadPoolExecutor(1) as other:
        buffers = [of_thread.buffer, of_thread.buffer, *other.map(lambda _: of_thread.buffer, range(2))]
    assert buffers[0] is buffers[1]
    assert buffers[2] is buffers[3]
    assert buffers[0] is not buffers[2]
