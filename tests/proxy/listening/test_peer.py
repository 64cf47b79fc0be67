"""Who is at the other end of a socket: what the kernel says, and nothing where it says nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from contextlib import closing
from typing import Any

import pytest

from qmpguard.proxy.listening.peer import (
    MAX_GROUPS,
    SO_PEERGROUPS,
    ProcessIdentity,
    peer_of,
    process_of,
    receive_with_sender,
    set_credentials,
)
from qmpguard.record import Peer
from tests.support.guarding import TIMEOUT
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture


class Groups:
    """A unix socket whose peer's groups are what a test says."""

    family = socket.AF_UNIX

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        if option != SO_PEERGROUPS:
            return struct.pack("3i", 7, 8, 9)
        assert size == 4 * MAX_GROUPS
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


def test_of_a_unix_socket_process_user_and_groups_are_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours, 3) == Peer(3, os.getpid(), os.geteuid(), os.getegid(), tuple(os.getgroups()))


def test_of_a_tcp_socket_nothing_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ours, _ = server.accept()
        with closing(ours):
            assert peer_of(ours, 5) == Peer(5)
            assert client.fileno() >= 0


@pytest.mark.parametrize(
    ("answer", "groups"),
    [
        (b"", ()),
        (struct.pack("2I", 5, 0xFFFFFFFF), (5, 0xFFFFFFFF)),
        (OSError("ERANGE: more groups than there is room for"), ()),
        (OSError("ENOPROTOOPT: an old kernel"), ()),
    ],
    ids=str,
)
def test_groups_that_the_kernel_does_not_tell_are_none(answer: bytes | OSError, groups: tuple[int, ...]) -> None:
    assert peer_of(Groups(answer), 1) == Peer(1, 7, 8, 9, groups)  # type: ignore[arg-type]


def test_a_closed_socket_is_an_error_of_the_system() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_of(ours, 1)


#: writes a byte to the socket at descriptor 0 and waits until it is told to end
WRITES = "import os; os.write(0, b'x'); os.read(0, 1)"


async def test_the_sender_of_a_message_is_the_process_that_wrote_it_not_the_one_that_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        set_credentials(ours, on=True)
        writer = await start_process(sys.executable, "-c", WRITES, stdin=theirs.fileno())
        async with asyncio.timeout(TIMEOUT):
            data, sender = await receive_with_sender(ours, 10)
        assert (data, sender) == (b"x", process_of(writer.pid, os.geteuid(), os.getegid()))
        assert sender is not None
        assert sender.parent == os.getpid()
        assert sender.started is not None
        assert peer_of(ours, 1).pid == os.getpid(), "SO_PEERCRED names the process that made the pair"
        ours.send(b"y")
        await writer.wait()


async def test_without_credentials_nothing_is_known_of_the_sender_and_descriptors_are_closed() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs:
        ours.setblocking(False)
        socket.send_fds(theirs, [b"x"], [writer])
        os.close(writer)
        assert await receive_with_sender(ours, 10) == (b"x", None)
        assert os.read(reader, 1) == b"", "no writing end is open any more"
    os.close(reader)


def test_a_tcp_socket_has_no_credentials() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        set_credentials(server, on=True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((7, 0, 0, 1, 5), (7, 0, 0, 1, 5), True),
        ((7, 0, 0, 1, 5), (7, 0, 0, 1, 6), False),  # the number was given to another process
        ((7, 0, 0, 1, 5), (7, 0), True),
        ((7, 0, 0, 1, 5), (8, 0, 0, 1, 5), False),
        ((0, 0), (0, 0), False),  # of another PID namespace
    ],
)
def test_a_process_is_the_same_by_its_number_and_its_start(one: Any, other: Any, *, same: bool) -> None:
    assert ProcessIdentity(*one).is_same(ProcessIdentity(*other)) is same


def test_of_a_process_that_is_gone_only_the_number_is_known() -> None:
    assert process_of(4194304 + 1, 7, 8) == ProcessIdentity(4194305, 7, 8)
