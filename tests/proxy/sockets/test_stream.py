"""A stream over a socket pair: reads, writes, back-pressure, faults of its protocol, and its end."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.descriptors import Descriptor, close_all
from qmpguard.proxy.sockets.stream import Outbox, Stream
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

Ends = tuple[Stream, socket.socket, "Keeper"]


class Keeper:
    """Keeps what a stream calls; ``raises`` is raised by the next call."""

    def __init__(self) -> None:
        self.data = b""
        self.descriptors: list[Descriptor] = []
        self.ended = False
        self.lost: list[tuple[CloseReason, str]] = []
        self.raises: Exception | None = None
        self.failed: list[Exception] = []
        self.grown: list[int] = []
        self.outbox = Outbox(self.grown.append, self.failed.append)

    def data_received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        self.data += data
        self.descriptors += descriptors
        if self.raises is not None:
            raise self.raises

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        self.lost.append((reason, detail))
        if self.raises is not None:
            raise self.raises


@pytest.fixture
async def ends() -> Iterator[Ends]:  # type: ignore[misc]
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    keeper = Keeper()
    stream = Stream(ours, keeper.outbox, limit=1 << 20)
    stream.start(keeper)
    yield stream, theirs, keeper
    stream.close()
    theirs.close()
    close_all(keeper.descriptors)
    keeper.outbox.hangups.close()


async def test_bytes_and_descriptors_arrive_together(ends: Ends) -> None:
    stream, theirs, keeper = ends
    with open(os.devnull) as file:  # noqa: ASYNC230, PTH123 -- only its number is wanted
        socket.send_fds(theirs, [b"hello"], [file.fileno()])
    await eventually(lambda: keeper.data == b"hello")
    (descriptor,) = keeper.descriptors
    assert os.fstat(descriptor.fileno())
    stream.write(b"answer", descriptor)
    data, numbers, _, _ = socket.recv_fds(theirs, 99, 1)
    assert (data, descriptor.fileno()) == (b"answer", -1)
    os.close(numbers[0])


async def test_what_is_written_in_one_wake_up_leaves_together(ends: Ends) -> None:
    stream, theirs, keeper = ends
    with keeper.outbox:
        stream.write(b"one ")
        stream.write(b"two")
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    assert theirs.recv(99) == b"one two"


async def test_a_paused_stream_reads_nothing_but_notices_a_hang_up(ends: Ends) -> None:
    stream, theirs, keeper = ends
    stream.pause()
    theirs.send(b"later")
    await asyncio.sleep(0.02)
    assert keeper.data == b""
    stream.resume()
    await eventually(lambda: keeper.data == b"later")
    stream.pause()
    theirs.send(b"never read")
    await asyncio.sleep(0.02)
    theirs.close()
    await eventually(lambda: keeper.lost == [(CloseReason.ENDED, "")])


async def test_the_other_sides_last_byte_is_told_and_it_can_still_read(ends: Ends) -> None:
    stream, theirs, keeper = ends
    theirs.shutdown(socket.SHUT_WR)
    await eventually(lambda: keeper.ended)
    stream.write(b"bye")
    assert theirs.recv(9) == b"bye"


async def test_one_that_reads_nothing_is_closed_beyond_the_limit(ends: Ends) -> None:
    stream, _, keeper = ends
    for _ in range(40):
        stream.write(b"x" * (1 << 18))
    assert keeper.lost == [(CloseReason.DOES_NOT_READ, "")]
    assert stream.closed
    assert sum(keeper.grown) > 0


async def test_an_exception_of_the_protocol_ends_its_stream_only(ends: Ends) -> None:
    stream, theirs, keeper = ends
    keeper.raises = KeyError("odd")
    theirs.send(b"poison")
    await eventually(lambda: stream.closed)
    assert keeper.lost == [(CloseReason.FAILED, "")]
    assert [str(error) for error in keeper.failed] == ["'odd'", "'odd'"]


async def test_a_message_in_pieces_is_made_as_it_is_sent_and_a_callback_follows(ends: Ends) -> None:
    stream, theirs, _ = ends
    sent = asyncio.Event()
    stream.write_long(iter([b"a" * 10, b"b" * 10, b"c" * 10]), 999)
    stream.when_sent(sent.set)
    assert stream.pending > 900
    received = b""
    while len(received) < 30:
        await asyncio.sleep(0)
        with suppress(BlockingIOError):
            received += theirs.recv(99)
    assert received == b"a" * 10 + b"b" * 10 + b"c" * 10
    async with asyncio.timeout(5):
        await sent.wait()
    assert stream.pending == 0


async def test_a_closed_stream_takes_nothing_and_closes_a_descriptor_that_it_is_given(ends: Ends) -> None:
    stream, _, keeper = ends
    stream.close()
    stream.close()
    descriptor = Descriptor(os.open(os.devnull, os.O_RDONLY))
    stream.write(b"x", descriptor)
    assert (descriptor.fileno(), keeper.lost) == (-1, [])


@pytest.mark.parametrize("linger", [0.0, 5.0])
async def test_after_a_write_error_the_last_words_are_read_where_that_is_wanted(linger: float) -> None:
    ours, theirs = socket.socketpair()
    keeper = Keeper()
    stream = Stream(ours, keeper.outbox, limit=1 << 20, descriptors=False, linger=linger)
    stream.wait(keeper)
    theirs.send(b"last words")
    theirs.close()
    stream.write(b"too late")
    if linger:
        assert not stream.closed
        stream.start(keeper)
        await eventually(lambda: keeper.data == b"last words" and keeper.ended)
        stream.close()
    else:
        assert keeper.lost == [(CloseReason.BROKEN, "Broken pipe")]
    keeper.outbox.hangups.close()
