"""QEMU dials in: the newest connection that waits is kept; beside the one in use none is."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening import qemu_listener
from qmpguard.proxy.listening.qemu_listener import KEEPALIVE, Dismissal, QemuListener, duplicate_listening
from tests.support.descriptors import open_files, opened_since
from tests.support.guarding import TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def dial(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.settimeout(TIMEOUT)
    return sock


async def taken(listener: QemuListener) -> socket.socket:
    async with asyncio.timeout(TIMEOUT):
        return await listener.next()


async def closed(sock: socket.socket) -> None:
    """Wait until the listener has closed a connection: what it did not read makes it a reset."""
    with suppress(ConnectionResetError):
        assert await asyncio.to_thread(sock.recv, 1) == b""


async def test_one_that_is_turned_away_is_not_closed_before_it_has_greeted(path: Path) -> None:
    """A QEMU that starts, and has no monitor yet, would die of it."""
    with closing(QemuListener(UnixAddress(str(path)))) as listener, dial(path), await taken(listener):
        with dial(path) as second:
            await eventually(lambda: bool(listener._dismissal._timers))
            second.setblocking(False)
            with pytest.raises(BlockingIOError):
                second.recv(1)
            second.settimeout(TIMEOUT)
            second.sendall(b"greeting")
            await closed(second)
        assert not listener._dismissal._timers


async def test_who_dials_in_is_returned_and_does_not_block(path: Path) -> None:
    with closing(QemuListener(UnixAddress(str(path)))) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, "whoever connects there is taken for QEMU"
        with dial(path) as qemu, await taken(listener) as sock:
            assert not sock.getblocking()
            qemu.sendall(b"greeting")
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"greeting"


async def test_waiting_ends_when_a_qemu_comes(path: Path) -> None:
    with closing(QemuListener(UnixAddress(str(path)))) as listener:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(taken(listener))
            await asyncio.sleep(0)
            assert not waiting.done()
            with dial(path):
                (await waiting).close()


async def test_of_those_that_wait_the_newest_is_kept(path: Path) -> None:
    with closing(QemuListener(UnixAddress(str(path)))) as listener, dial(path) as old:
        await eventually(lambda: listener._waiting is not None)
        old.sendall(b"greeting")
        with dial(path) as new:
            await closed(old)
            with await taken(listener) as sock:
                new.sendall(b"new")
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"new"


async def test_beside_the_one_in_use_another_is_closed_at_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also where it is of the same process, as QEMU made to dial again is; and it is served at no later time."""
    with closing(QemuListener(UnixAddress(str(path)))) as listener, dial(path) as qemu, await taken(listener) as sock:
        with dial(path) as second:
            second.sendall(b"greeting")
            await closed(second)
        assert f"pid{os.getpid()}" in caplog.text
        assert "refused: a QEMU is connected here already" in caplog.text
        qemu.sendall(b"still here")
        assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"still here"
        assert listener._waiting is None


@pytest.mark.parametrize("closes", ["QEMU", "QEMU, with bytes unread", "the guard"])
async def test_when_the_one_in_use_has_ended_the_next_one_waits(path: Path, closes: str) -> None:
    """A QEMU may be started at once after another, and dial only once."""
    with closing(QemuListener(UnixAddress(str(path)))) as listener, dial(path) as qemu, await taken(listener) as sock:
        if closes.endswith("unread"):
            qemu.sendall(b"last words")
        (sock if closes == "the guard" else qemu).close()
        with dial(path) as second, await taken(listener) as following:
            second.sendall(b"new")
            assert await asyncio.get_running_loop().sock_recv(following, 100) == b"new"


@pytest.mark.parametrize("lives", [True, False])
async def test_an_inherited_connection_is_in_use_too(path: Path, *, lives: bool) -> None:
    """One that waits may have come while no guard was there; where the inherited one has ended, it is the next QEMU."""
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(QemuListener(UnixAddress(str(path)))) as listener, dial(path) as second:
        await eventually(lambda: listener._waiting is not None)
        if not lives:
            theirs.close()
        listener.serves(ours)
        assert listener.is_in_use is lives
        if lives:
            second.sendall(b"greeting")
            await closed(second)
        else:
            (await taken(listener)).close()


async def test_closing_closes_who_waits_and_removes_the_file(path: Path) -> None:
    listener = QemuListener(UnixAddress(str(path)))
    with dial(path) as qemu:
        await eventually(lambda: listener._waiting is not None)
        listener.close()
        assert await asyncio.to_thread(qemu.recv, 1) == b""
    assert not path.exists()


async def test_over_tcp_a_qemu_that_is_gone_without_a_word_is_noticed(server: socket.socket) -> None:
    with (
        closing(QemuListener(duplicate_listening(FdAddress(server.fileno())))) as listener,
        socket.create_connection(server.getsockname()),
        await taken(listener) as sock,
    ):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in KEEPALIVE} == KEEPALIVE
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_of_a_passed_socket_a_duplicate_is_used(server: socket.socket) -> None:
    address = duplicate_listening(FdAddress(server.fileno()))
    assert isinstance(address, FdAddress)
    assert address.number != server.fileno()
    os.close(address.number)
    server.getsockname()  # open still: its number never becomes that of another socket


def test_other_addresses_are_used_as_they_are() -> None:
    for address in (UnixAddress("/run/q"), TcpAddress("::1", 5)):
        assert duplicate_listening(address) is address


@pytest.mark.parametrize("number", [99_999, 1 << 40, -1])
def test_a_number_that_is_no_descriptor_is_told(number: int) -> None:
    with pytest.raises(UnavailableError, match="cannot listen at fd:"):
        duplicate_listening(FdAddress(number))


def test_a_passed_socket_that_does_not_listen_is_refused_and_left_open(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_files()
        with pytest.raises(UnavailableError, match="it is not a listening stream socket"):
            duplicate_listening(FdAddress(ours.fileno()))
        assert not opened_since(before)
        ours.getsockname()


async def test_a_path_that_another_has_is_an_error(path: Path) -> None:
    with (
        closing(QemuListener(UnixAddress(str(path)))),
        pytest.raises(UnavailableError, match="another process listens"),
    ):
        QemuListener(UnixAddress(str(path)))


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a connection to dismiss, and QEMU's end of it."""
    ours, theirs = socket.socketpair()
    return ours, theirs


@pytest.mark.parametrize("greets", [True, False])
async def test_who_has_greeted_or_left_is_closed(*, greets: bool) -> None:
    ours, theirs = pair()
    with ours, theirs, closing(Dismissal()) as dismissal:
        dismissal.add(ours)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ours.fileno() >= 0, "a QEMU that starts would die"
        if greets:
            theirs.sendall(b"greeting")
        else:
            theirs.close()
        await eventually(lambda: ours.fileno() < 0)


async def test_who_is_silent_is_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_listener, "DISMISSAL", 0.0)
    ours, theirs = pair()
    with ours, theirs, closing(Dismissal()) as dismissal:
        dismissal.add(ours)
        await eventually(lambda: ours.fileno() < 0)


async def test_of_too_many_the_oldest_is_closed_and_the_end_closes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_listener, "MAX_DISMISSED", 2)
    dismissal = Dismissal()
    pairs = [pair() for _ in range(3)]
    for ours, _ in pairs:
        dismissal.add(ours)
    assert [ours.fileno() < 0 for ours, _ in pairs] == [True, False, False]
    dismissal.close()
    assert all(ours.fileno() < 0 for ours, _ in pairs)
    for _, theirs in pairs:
        theirs.close()
