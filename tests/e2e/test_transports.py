"""Real QEMUs and clients over every transport, in both directions, and what becomes of the sockets' files."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import Address, FdAddress, Inbound, TcpAddress, UnixAddress
from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.proxy.sockets.stream import Stream
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, Client, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.qemu


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def dialling(where: Address, *, old: bool) -> list[str]:
    """QEMU's options for a monitor that dials; the name of the one for reconnecting changed in 9.2."""
    place = f"path={where.path}" if isinstance(where, UnixAddress) else ""
    if isinstance(where, TcpAddress):
        place = f"host={where.host},port={where.port}"
    again = "reconnect=1" if old else "reconnect-ms=50"
    return ["-chardev", f"socket,id=dials,server=off,{again},{place}", "-mon", "chardev=dials,mode=control"]


async def assert_serves(where: Path | TcpAddress) -> None:
    async with connected(where) as qmp:
        assert "return" in await qmp.ask("query-status", id=1)


@pytest.mark.parametrize(
    ("find", "old"),
    [(system_qemu, True), pytest.param(vfio_qemu, False, marks=pytest.mark.qemu11)],
    ids=["7.2", "11.1"],
)
@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_qemu_dials_in_reconnects_and_is_replaced(
    tmp_path: Path, find: Callable[[], Path], *, old: bool, tcp: bool
) -> None:
    where = TcpAddress("127.0.0.1", free_port()) if tcp else UnixAddress(str(tmp_path / "dials"))
    client = tmp_path / "guard.sock"
    async with guarding(Inbound(where), client, up=False) as guard:
        options = dialling(where, old=old)
        async with Qemu(find(), tmp_path, options) as qemu:
            await assert_serves(client)
            assert guard.vm.link is not None
            guard.vm.link.lose("the test says so")  # QEMU notices and dials again
            await assert_serves(client)
            assert guard.vm.counts.links == 2
            qemu.kill()
            await eventually(lambda: guard.vm.link is None)
        async with Qemu(find(), tmp_path, options):
            await assert_serves(client)
        assert guard.vm.counts.links == 3
    assert not (tmp_path / "dials").exists()


async def test_qemu_dials_in_to_a_guard_that_was_started_by_its_options(tmp_path: Path) -> None:
    where = tmp_path / "dials"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpguard", "run", "--log-level", "warning"),
        *("--qemu-listen", str(where), "--listen", str(tmp_path / "guard.sock")),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        await eventually(where.exists)
        assert stat.S_IMODE(where.stat().st_mode) == 0o600
        async with Qemu(system_qemu(), tmp_path, dialling(UnixAddress(str(where)), old=True)):
            async with asyncio.timeout(TIMEOUT):
                line = (await process.stderr.readline()).decode()
            assert line.endswith(f"at unix:{where} (it dials in)\n")
            await assert_serves(tmp_path / "guard.sock")
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert not where.exists()


async def test_a_second_qemu_is_turned_away_and_the_first_one_stays(tmp_path: Path) -> None:
    where, client = tmp_path / "dials", tmp_path / "guard.sock"
    async with (
        guarding(Inbound(UnixAddress(str(where))), client, up=False) as guard,
        Qemu(system_qemu(), tmp_path, dialling(UnixAddress(str(where)), old=True)),
    ):
        await assert_serves(client)
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(where))
            second.sendall(b"{")  # before its greeting it is not closed: a QEMU that starts would die of it
            second.settimeout(TIMEOUT)
            with pytest.raises(ConnectionResetError):  # what it sent was not read
                await asyncio.to_thread(second.recv, 1)
        await assert_serves(client)
        assert guard.vm.counts.links == 1


async def test_tcp_on_both_sides(tmp_path: Path) -> None:
    up, down = TcpAddress("127.0.0.1", free_port()), TcpAddress("127.0.0.1", free_port())
    monitor = ["-qmp", f"tcp:{up.host}:{up.port},server=on,wait=off"]
    async with Qemu(system_qemu(), tmp_path, monitor), guarding(up, down):
        await assert_serves(down)


async def test_descriptors_on_both_sides(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as up:
        port = server.getsockname()[1]
        async with Qemu(system_qemu(), tmp_path) as qemu:
            up.connect(str(qemu.monitors[0]))
            async with guarding(FdAddress(up.detach()), FdAddress(server.detach())):
                await assert_serves(TcpAddress("127.0.0.1", port))


async def test_a_descriptor_that_nobody_can_connect_to_is_refused() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        for sock in (one, bound):
            with pytest.raises(UnavailableError, match=r"cannot listen at fd:.*: it is not a listening stream socket"):
                Listener(FdAddress(sock.fileno()), nobody)
    with pytest.raises(UnavailableError, match="cannot listen at fd:999: Bad file descriptor"):
        Listener(FdAddress(999), nobody)


async def test_a_reply_over_tcp_does_not_wait_for_the_one_before_it(tmp_path: Path) -> None:
    down = TcpAddress("127.0.0.1", free_port())
    async with Qemu(system_qemu(), tmp_path) as qemu, guarding(qemu.monitors[0], down) as guard, connected(down):
        (session,) = guard.vm.clients
        stream = session.stream
        assert isinstance(stream, Stream)
        assert stream._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("end", ["before a link", "after one"])
async def test_a_descriptor_whose_qemu_is_gone_stays_failed_and_its_clients_are_refused(
    tmp_path: Path, end: str
) -> None:
    client = tmp_path / "guard.sock"
    with socket.socket(socket.AF_UNIX) as up:
        async with FakeQemu(tmp_path / "q") as qemu:
            up.connect(str(qemu.path))
            async with guarding(FdAddress(up.detach()), client, up=False) as guard:
                if end == "after one":
                    await assert_serves(client)
                await eventually(lambda: qemu.connections == 1)
                qemu.die()
                await eventually(lambda: "a descriptor cannot be opened again" in guard.vm.snapshot().link.reason)
                assert guard.vm.connections.presence is Presence.ENDED
                assert not client.exists()
                assert not guard.vm.counts.faults


def nobody(sock: socket.socket, peer: object) -> None:
    raise AssertionError


async def test_a_stale_socket_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    before = path.stat().st_ino, path.stat().st_mtime_ns
    listener = Listener(UnixAddress(str(path)), nobody)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) != before
    listener.close()
    assert not path.exists()


async def test_a_socket_that_another_process_has_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = Listener(UnixAddress(str(path)), nobody)
    path.unlink()
    path.write_text("not ours")
    listener.close()
    assert path.read_text() == "not ours"


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "a socket in use"])
async def test_what_is_no_stale_socket_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path, file = tmp_path / "s", tmp_path / "f"
    with socket.socket(socket.AF_UNIX) as used:
        match kind:
            case "file":
                path.write_text("x")
            case "folder":
                path.mkdir()
            case "link to a file":
                file.write_text("x")
                path.symlink_to(file)
            case _:
                used.bind(str(path))
                used.listen()
        with pytest.raises(UnavailableError, match="cannot listen at"):
            Listener(UnixAddress(str(path)), nobody)
    assert path.exists()
    assert kind != "link to a file" or path.is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_mode_of_a_socket_is_what_was_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    listener = Listener(UnixAddress(str(path)), nobody, mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    listener.close()


async def test_a_client_over_ipv6(tmp_path: Path) -> None:
    down = TcpAddress("::1", free_port())
    async with Qemu(system_qemu(), tmp_path) as qemu, guarding(qemu.monitors[0], down):
        reader, writer = await asyncio.open_connection("::1", down.port)
        assert "QMP" in await Client(reader, writer).receive()
        writer.close()
