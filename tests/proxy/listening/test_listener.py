"""The socket that clients come in by: errors of accept, clients that fail, storms, a nearly full descriptor table."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import Address, FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening import listener as module
from qmpguard.proxy.listening.accept_rate import AcceptRate
from qmpguard.proxy.listening.listener import _PER_CONNECTION, BATCH, LOG_LINES, Listener
from qmpguard.record import Peer
from tests.support.descriptors import open_files, opened_since
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clients:
    """Who was accepted, in order; ``raises`` is raised for each."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.came: list[socket.socket] = []
        self.raises = raises

    def on_accept(self, sock: socket.socket, _: Peer) -> None:
        if self.raises is not None:
            raise self.raises
        self.came.append(sock)

    def close(self) -> None:
        for sock in self.came:
            sock.close()


@contextmanager
def listening(path: Path, clients: Clients, **options: Any) -> Iterator[Listener]:
    listener = Listener(UnixAddress(str(path)), clients.on_accept, label="vm=a", **options)
    with closing(listener), closing(clients):
        yield listener


def dial(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.setblocking(False)
    return sock


async def is_closed(sock: socket.socket) -> bool:
    async with asyncio.timeout(20):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionError:
            return True


class Failing:
    """A listening socket whose accept raises so often, then works."""

    def __init__(self, sock: socket.socket, error: BaseException, times: int = 1) -> None:
        self._sock = sock
        self._error = error
        self.left = times

    def accept(self) -> Any:
        if self.left > 0:
            self.left -= 1
            raise self._error
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
async def test_after_any_error_of_accept_the_client_is_accepted_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.001)
    clients = Clients()
    with listening(tmp_path / "s", clients) as listener:
        sock = Failing(listener._listening.sock, OSError(number, os.strerror(number)))
        listener._listening.sock = sock  # type: ignore[assignment]
        with dial(tmp_path / "s"):
            await eventually(lambda: bool(clients.came))
        assert not sock.left
    passing = isinstance(OSError(number, ""), BlockingIOError | InterruptedError)
    assert dict(listener.errors) == ({} if passing else {errno.errorcode[number]: 1})
    assert bool(caplog.records) == (not passing and number not in _PER_CONNECTION)
    assert all(record.getMessage().startswith("vm=a cannot accept: ") for record in caplog.records)


async def test_without_memory_accepting_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.001)
    clients = Clients()
    with listening(tmp_path / "s", clients) as listener:
        listener._listening.sock = Failing(listener._listening.sock, MemoryError())  # type: ignore[assignment]
        with dial(tmp_path / "s"):
            await eventually(lambda: bool(clients.came))
        assert listener.errors == {"MemoryError": 1}


async def test_a_shortage_that_lasts_is_few_lines_of_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACCEPT_PAUSE", 0.001)
    with listening(tmp_path / "s", Clients()) as listener:
        error = OSError(errno.EMFILE, "Too many open files")
        listener._listening.sock = failing = Failing(listener._listening.sock, error, times=50)  # type: ignore[assignment]
        with dial(tmp_path / "s"):
            await eventually(lambda: not failing.left)
    assert [r.getMessage() for r in caplog.records] == [
        "vm=a cannot accept: [Errno 24] Too many open files; trying again in 0.001 s"
    ] * LOG_LINES


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(errno.ENOTCONN, "gone"), MemoryError(), KeyError(1)])
@pytest.mark.parametrize("where", ["on_accept", "peer_of", "refuse"])
async def test_an_exception_for_one_client_closes_that_client_only(
    where: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    clients = Clients(error if where == "on_accept" else None)
    with monkeypatch.context() as patch, ExitStack() as stack:
        options = {"refuse": fails} if where == "refuse" else {}
        listener = stack.enter_context(listening(tmp_path / "s", clients, **options))
        if where == "peer_of":
            patch.setattr(module, "peer_of", fails)
        with dial(tmp_path / "s") as sock:
            assert await is_closed(sock)
        patch.undo()
        clients.raises, listener._refuse = None, None
        with dial(tmp_path / "s"):
            await eventually(lambda: len(clients.came) == 1)


async def test_who_may_not_come_in_is_closed_before_anything_is_made_and_the_log_stays_short(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clients = Clients()
    with listening(tmp_path / "s", clients, refuse=lambda _: "on no list"):
        for _ in range(50):
            with dial(tmp_path / "s") as sock:
                assert await is_closed(sock)
    assert not clients.came
    assert len(caplog.records) == LOG_LINES
    assert f"uid{os.getuid()} refused: on no list" in caplog.text


async def test_clients_never_take_the_reserved_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, full = Clients(), 0

    def count() -> None:
        nonlocal full
        full += 1

    with listening(tmp_path / "s", clients) as duplicate_listening, listening(tmp_path / "t", clients, on_full=count):
        monkeypatch.setattr(module, "is_reserved", lambda _: True)
        with dial(tmp_path / "t") as sock:
            assert await is_closed(sock)
        assert (full, clients.came) == (1, [])
        assert duplicate_listening.on_full is None
        with dial(tmp_path / "s"):
            await eventually(lambda: len(clients.came) == 1)  # the guard's own sockets may take them


async def test_in_one_turn_only_a_few_are_accepted(tmp_path: Path) -> None:
    clients = Clients()
    with listening(tmp_path / "s", clients) as listener, ExitStack() as stack:
        for _ in range(3 * BATCH):
            stack.enter_context(dial(tmp_path / "s"))
        listener._on_connect()
        assert len(clients.came) == BATCH
        await eventually(lambda: len(clients.came) == 3 * BATCH)


async def test_a_storm_is_spaced_out_and_nobody_is_lost(tmp_path: Path) -> None:
    clients = Clients()
    with listening(tmp_path / "s", clients) as listener, ExitStack() as stack:
        listener._accept_rate = AcceptRate(burst=3, rate=1000.0)
        for _ in range(20):
            stack.enter_context(dial(tmp_path / "s"))
        listener._on_connect()
        assert len(clients.came) == 3
        await eventually(lambda: len(clients.came) == 20)


async def test_those_who_left_before_they_were_accepted_hold_up_no_other(tmp_path: Path) -> None:
    clients = Clients()
    with listening(tmp_path / "s", clients) as listener:
        listener._accept_rate = AcceptRate(burst=1, rate=0.001)
        for _ in range(50):
            dial(tmp_path / "s").close()
        with dial(tmp_path / "s") as sock:
            await eventually(lambda: bool(clients.came))
            assert sock.send(b"x") == 1
            assert clients.came[0].recv(1) == b"x"


@pytest.mark.parametrize("left", ["bytes", "half"])
async def test_who_left_bytes_or_still_reads_is_served(left: str, tmp_path: Path) -> None:
    clients = Clients()
    with listening(tmp_path / "s", clients), dial(tmp_path / "s") as sock:
        if left == "half":
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.send(b"{}")
            sock.close()
        await eventually(lambda: len(clients.came) == 1)


# the file of the socket


async def test_a_removed_file_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clients, path = Clients(), tmp_path / "s"
    with listening(path, clients, mode=0o660) as listener, ExitStack() as stack:
        listener.restore()
        assert not caplog.records
        stack.enter_context(dial(path))  # it has not been accepted yet
        path.unlink()
        listener.restore()
        assert len(clients.came) == 1
        assert path.stat().st_mode & 0o777 == 0o660
        assert f"vm=a socket=unix:{path} was removed; listening there again" in caplog.text
        stack.enter_context(dial(path))
        await eventually(lambda: len(clients.came) == 2)
    assert not path.exists()


async def test_a_stale_socket_in_its_place_is_replaced(tmp_path: Path) -> None:
    clients, path = Clients(), tmp_path / "s"
    with listening(path, clients) as listener:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        listener.restore()
        assert listener.has_socket_file


@pytest.mark.parametrize("what", ["file", "folder", "socket in use", "missing folder"])
async def test_what_has_taken_its_place_is_left_alone_and_said_once(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clients, folder = Clients(), tmp_path / "d"
    folder.mkdir()
    path = folder / "s"
    with listening(path, clients) as listener, socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        match what:
            case "file":
                path.write_text("mine")
            case "folder":
                path.mkdir()
            case "socket in use":
                other.bind(str(path))
                other.listen()
            case _:
                folder.rmdir()
        before = path.lstat().st_ino if path.exists() else 0
        for _ in range(3):
            listener.restore()
        assert (path.lstat().st_ino if path.exists() else 0) == before
        (record,) = caplog.records
        assert "is gone, no client can connect: cannot listen at" in record.getMessage()
        if what == "socket in use":
            other.setblocking(False)
            other.accept()[0].close()
            with pytest.raises(BlockingIOError):  # it was connected to once, to see whether it is stale
                other.accept()
        if what == "missing folder":
            folder.mkdir()
            listener.restore()
            assert listener.has_socket_file
        assert not listener.is_closed


async def test_what_has_no_file_is_never_listened_at_anew(tmp_path: Path) -> None:
    clients = Clients()
    with socket.create_server(("127.0.0.1", 0)) as server, listening(tmp_path / "s", clients) as closed:
        closed.close()
        closed.restore()
        assert closed.is_closed
        for address in (FdAddress(os.dup(server.fileno())), UnixAddress(f"\0{tmp_path}")):
            with closing(Listener(address, clients.on_accept)) as listener:
                before = listener._listening
                listener.restore()
                assert listener._listening is before


@pytest.mark.parametrize(
    "address",
    [
        TcpAddress("a" * 70, 1),
        FdAddress(1 << 70),
        UnixAddress("/" + "a" * 300),
        UnixAddress("/a\0b"),
        UnixAddress("/nowhere/s"),
    ],
)
async def test_an_address_that_cannot_be_listened_at_is_told_in_words(address: Address) -> None:
    with pytest.raises(UnavailableError, match="cannot listen at "):
        Listener(address, Clients().on_accept)


async def test_an_error_while_a_socket_is_opened_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = open_files()
    for function in ("open", "chown"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fails)
            with pytest.raises(UnavailableError):
                Listener(UnixAddress(str(tmp_path / "s")), Clients().on_accept, group=os.getgid())
        assert not (tmp_path / "s").exists()
    assert not opened_since(before)
