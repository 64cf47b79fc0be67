"""The service manager's side, with sockets and variables of our own; tests/e2e/test_systemd.py has the real tools."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from qmpguard.address import FdAddress, NamedAddress, UnixAddress
from qmpguard.daemon import systemd
from qmpguard.daemon.systemd import Notifier, PassedSockets, take_sockets
from qmpguard.errors import ConfigError
from tests.support.descriptors import open_files, opened_since
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def manager(where: str) -> socket.socket:
    """A service manager's end: where it hears what it is told."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind("\0" + where[1:] if where.startswith("@") else where)
    sock.setblocking(False)
    return sock


@pytest.fixture(params=["abstract", "path"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"@{tmp_path}/notify" if request.param == "abstract" else f"{tmp_path}/notify"


def test_what_is_told_arrives_word_for_word(place: str) -> None:
    environ = {"NOTIFY_SOCKET": place, "HOME": "/"}
    with closing(manager(place)) as told:
        notifier = Notifier(environ)
        assert environ == {"HOME": "/"}
        notifier.status("waiting for QEMU")
        notifier.status("waiting for QEMU")  # nothing new
        notifier.ready()
        notifier.reloading()
        notifier.stopping()
        assert told.recv(4096) == b"STATUS=waiting for QEMU"
        assert told.recv(4096) == b"READY=1"
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", told.recv(4096))
        assert told.recv(4096) == b"STOPPING=1"
        with pytest.raises(BlockingIOError):
            told.recv(1)


async def test_descriptors_are_left_by_name_and_the_barrier_waits_until_it_is_heard(place: str) -> None:
    with closing(manager(place)) as told, (Path(place.lstrip("@")).parent / "file").open("w+b") as file:
        notifier = Notifier({"NOTIFY_SOCKET": place})
        assert notifier.is_available
        notifier.store("link-1", [file.fileno()])
        notifier.forget("link-1")
        text, numbers, _, _ = socket.recv_fds(told, 4096, 2)
        assert text == b"FDSTORE=1\nFDNAME=link-1"
        file.write(b"same")
        file.flush()
        assert os.pread(numbers[0], 4, 0) == b"same"
        os.close(numbers[0])
        assert told.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=link-1"
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(TIMEOUT):
            waiting = tasks.create_task(notifier.barrier())
            await asyncio.sleep(0)
            text, numbers, _, _ = socket.recv_fds(told, 4096, 2)
            assert text == b"BARRIER=1"
            await asyncio.sleep(0)
            assert not waiting.done()  # nothing would end it but the next line, and its own patience
            os.close(numbers[0])
            await waiting


async def test_a_service_manager_that_does_not_read_is_told_later_and_holds_nobody_up(place: str) -> None:
    """Nothing here waits: a message that blocked would hang the test, for the reader is the same thread."""
    before = open_files()
    with closing(manager(place)) as told, (Path(place.lstrip("@")).parent / "file").open("w+b") as file:
        notifier = Notifier({"NOTIFY_SOCKET": place})
        while not notifier._waiting:
            notifier.reloading()
        for number in range(100):
            notifier.status(f"{number}")
        notifier.store("link-1", [file.fileno()])
        notifier.ready()
        last = ["STATUS=99", "FDSTORE=1\nFDNAME=link-1", "READY=1"]
        assert [message.text for message in notifier._waiting][1:] == last
        heard = []
        async with asyncio.timeout(TIMEOUT):
            while "READY=1" not in heard:
                try:
                    text, numbers, _, _ = socket.recv_fds(told, 4096, 2)
                    heard.append(text.decode())
                    for passed_number in numbers:
                        os.close(passed_number)
                except BlockingIOError:
                    await asyncio.sleep(0.01)
        assert heard[-3:] == last
    assert not opened_since(before)


async def test_what_a_service_manager_never_reads_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(systemd, "MAX_WAITING", 3)
    monkeypatch.setattr(systemd, "BARRIER_TIMEOUT", 0.01)
    with closing(manager(f"{tmp_path}/n")), (tmp_path / "file").open("w+b") as file:
        notifier = Notifier({"NOTIFY_SOCKET": f"{tmp_path}/n"})
        while not notifier._waiting:
            notifier.reloading()
        before = open_files()
        for number in range(10):
            notifier.store(f"link-{number}", [file.fileno()])
        assert len(opened_since(before)) == 3
        await notifier.barrier()
    (record,) = caplog.records
    assert "the service manager does not read" in record.getMessage()
    while notifier._waiting:
        systemd._close(notifier._waiting.popleft())


def test_without_a_service_manager_nothing_is_told() -> None:
    notifier = Notifier({})
    notifier.ready()
    assert not notifier.is_available


def test_a_service_manager_that_is_gone_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": f"{tmp_path}/gone"}).ready()
    assert "No such file" in caplog.text


async def test_the_watchdog_is_fed_twice_in_the_time_that_it_allows(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": f"{tmp_path}/n", "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    with closing(manager(f"{tmp_path}/n")) as told:
        notifier = Notifier(environ)
        assert notifier._every == 0.01
        assert not environ
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(TIMEOUT):
            task = tasks.create_task(notifier.watchdog())
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(told, 4096) == b"WATCHDOG=1"
            task.cancel()


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_a_watchdog_of_somebody_else_is_not_fed(environ: dict[str, str]) -> None:
    async with asyncio.timeout(TIMEOUT):
        await Notifier(environ).watchdog()


class Passing(Protocol):
    """What a process finds that was started with sockets."""

    def __call__(self, *socks: socket.socket, names: str | None = None, pid: int = 0) -> PassedSockets: ...


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passing]:
    numbers: list[int] = []

    def take(*socks: socket.socket, names: str | None = None, pid: int = 0) -> PassedSockets:
        first = max(sock.fileno() for sock in socks) + 100
        numbers.extend(os.dup2(sock.fileno(), first + offset) for offset, sock in enumerate(socks))
        monkeypatch.setattr(systemd, "FIRST", first)
        environ = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(socks))}
        if names is not None:
            environ["LISTEN_FDNAMES"] = names
        sockets = take_sockets(environ)
        assert not environ
        return sockets

    yield take
    for number in numbers:
        os.close(number)


def test_a_socket_is_found_by_its_name_and_stays_open(passed: Passing, listening: socket.socket) -> None:
    sockets = passed(listening, listening, names="admin:qmp")
    assert "qmp" in sockets
    assert sockets.unused == ["admin", "qmp"]
    for _ in range(2):  # a VM that leaves and comes back with a reload
        address = sockets.resolve(NamedAddress("qmp"))
        assert isinstance(address, FdAddress)
        with socket.socket(fileno=address.number) as sock:
            assert sock.getsockname() == listening.getsockname()
            assert not sock.get_inheritable()
    assert not os.get_inheritable(systemd.FIRST + 1)
    assert sockets.unused == ["admin"]


def test_any_other_address_stays_as_it_is() -> None:
    assert PassedSockets().resolve(UnixAddress("/run/x")) == UnixAddress("/run/x")


def test_sockets_of_another_process_are_not_taken(passed: Passing, listening: socket.socket) -> None:
    assert passed(listening, names="qmp", pid=1).unused == []


def test_sockets_without_names_are_called_what_systemd_calls_them(passed: Passing, listening: socket.socket) -> None:
    assert passed(listening).unused == ["unknown"]


def test_what_was_not_passed_is_named_beside_what_was(passed: Passing, listening: socket.socket) -> None:
    with pytest.raises(ConfigError, match="fd:qmp: no sockets of that name were passed; no socket was passed at all"):
        PassedSockets().resolve(NamedAddress("qmp"))
    with pytest.raises(ConfigError, match=r"FileDescriptorName= in the socket unit\): admin"):
        passed(listening, names="admin").resolve(NamedAddress("qmp"))


def test_a_name_that_two_sockets_have_is_refused(passed: Passing, listening: socket.socket) -> None:
    with pytest.raises(ConfigError, match="2 sockets"):
        passed(listening, listening, names="qmp:qmp").resolve(NamedAddress("qmp"))


def test_a_socket_that_does_not_listen_is_refused(passed: Passing) -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ConfigError, match="Accept=no"):
        passed(one, names="qmp").resolve(NamedAddress("qmp"))


def test_what_was_left_is_taken_out_by_its_prefix(passed: Passing, listening: socket.socket) -> None:
    sockets = passed(listening, listening, listening, names="qmp:link-1:link-1")
    assert sockets.take("link-") == {"link-1": [systemd.FIRST + 1, systemd.FIRST + 2]}
    assert sockets.take("link-") == {}
    assert sockets.unused == ["qmp"]
