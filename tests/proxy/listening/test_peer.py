"""Who is at the other end of a socket: what the kernel says, and nothing where it says nothing."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import closing

import pytest

from qmpguard.proxy.listening.peer import MAX_GROUPS, SO_PEERGROUPS, peer_of
from qmpguard.record import Peer


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
