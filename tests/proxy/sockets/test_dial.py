"""Dialling QEMU: a connected socket or one error, and never a descriptor too many."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.sockets import dial as module
from qmpguard.proxy.sockets.dial import check, connect, hang_up, passed, peer_identity
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q"


@pytest.fixture
def qemu(path: Path) -> Iterator[socket.socket]:
    with listening(path) as sock:
        yield sock


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


async def test_a_unix_socket_is_connected_and_does_not_block(path: Path, qemu: socket.socket) -> None:
    with closing(await connect(UnixAddress(str(path)))) as sock:
        assert not sock.getblocking()
        qemu.accept()[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "qemu.example"])
async def test_tcp_is_connected_by_address_or_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    look_up = socket.getaddrinfo  # a bare machine has no name of its own, not even localhost
    names = {"qemu.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *more: look_up(names.get(name, name), *more))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        closing(await connect(TcpAddress(host, server.getsockname()[1]))) as sock,
    ):
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_what_is_not_there_is_an_error_of_the_system_and_leaves_nothing_open(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    before = open_files()
    with pytest.raises(FileNotFoundError):
        await connect(UnixAddress(str(path)))
    with pytest.raises(ConnectionRefusedError):
        await connect(TcpAddress("127.0.0.1", port))
    with pytest.raises(OSError, match="Bad file descriptor"):
        await connect(FdAddress(99_999))
    assert not opened_since(before)


async def test_a_full_backlog_shows_at_once(path: Path) -> None:
    with listening(path) as qemu, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        qemu.listen(0)
        first.connect(str(path))
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            await connect(UnixAddress(str(path)))


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
async def test_a_name_that_cannot_be_looked_up_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(UnavailableError, match=r"cannot look up 'no\.example'"):
        await connect(TcpAddress("no.example", 1))


async def test_connecting_takes_no_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    before = open_files()
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.001)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never, raising=False)
    with pytest.raises(TimeoutError):
        await connect(TcpAddress("127.0.0.1", 1))
    assert not opened_since(before)


def test_of_a_passed_connection_a_duplicate_is_used() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with passed(ours.fileno()) as sock:
            assert sock.fileno() != ours.fileno()
            assert not sock.getblocking()
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x", "the number itself stays open"


def test_a_passed_number_that_is_no_connection_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        file = os.open(tmp_path, os.O_RDONLY)
        before = open_files()
        for number, words in (
            (server.fileno(), "not a connected stream"),
            (datagrams.fileno(), "not a connected stream"),
        ):
            with pytest.raises(OSError, match=words):
                passed(number)
        with pytest.raises(OSError, match="not a socket"):
            passed(file)
        assert not opened_since(before)
        os.close(file)


@pytest.mark.parametrize("number", [99_999, -1, 1 << 40])
def test_a_passed_connection_that_is_none_is_told_at_the_start(number: int) -> None:
    with pytest.raises(UnavailableError, match="a descriptor cannot be opened again"):
        check(FdAddress(number))


def test_other_addresses_may_come_to_life_later(path: Path) -> None:
    check(UnixAddress(str(path)))
    check(TcpAddress("no.example", 1))


def test_hanging_up_ends_a_passed_connection_for_the_other_side() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with passed(ours.fileno()) as sock:
            hang_up(sock)
        assert theirs.recv(1) == b""
        theirs.close()
        hang_up(ours)  # it has been ended already


def test_another_qemu_at_the_same_path_is_told_from_the_first(path: Path) -> None:
    address = UnixAddress(str(path))
    with listening(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        first = peer_identity(client, address)
        assert first == peer_identity(client, address)
    path.unlink()
    os.utime(path.parent)
    with listening(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        second = peer_identity(client, address)
        assert first is not None
        assert second is not None
        assert first[0] == second[0] == os.getpid()
        assert first != second


def test_where_nothing_tells_qemus_apart_there_is_no_identity(path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_identity(ours, TcpAddress("127.0.0.1", 1)) is None
        assert peer_identity(ours, FdAddress(ours.fileno())) is None
        assert peer_identity(ours, UnixAddress(str(path))) is None, "the file is gone"
