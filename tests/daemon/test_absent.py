"""After QEMU's end clients are refused as QEMU would refuse them, and let in again with the next one."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import FdAddress, TcpAddress, UnixAddress
from qmpguard.config import Absent, VmConfig
from qmpguard.daemon import guard as guards
from qmpguard.daemon.supervisor import Supervisor
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.record import Run
from qmpguard.tasks import Tasks
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, Client, connected, eventually
from tests.support.process import guard_process, vm_table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.address import ListenAddress


@asynccontextmanager
async def fleet_of(*vms: VmConfig) -> AsyncGenerator[Supervisor]:
    async with Tasks() as tasks:
        fleet = Supervisor(tasks, Schemas(), PassedSockets(), Run())
        fleet.apply(vms)
        try:
            yield fleet
        finally:
            fleet.cancel()
    assert tasks.faults == {}


def vm(qemu: FakeQemu, listen: ListenAddress | None = None, absent: Absent = Absent.REFUSE) -> VmConfig:
    listen = listen or UnixAddress(str(qemu.path.with_name("guard.sock")))
    return VmConfig("one", UnixAddress(str(qemu.path)), listen, watch=0.0, absent=absent)


def presence(fleet: Supervisor, name: str = "one") -> Presence:
    return fleet.guards[name].vm.connections.presence


async def test_the_socket_goes_with_qemu_and_comes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "guard.sock"
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        for _ in range(3):
            async with connected(path) as qmp:
                assert await qmp.ask("query-name") == {"return": {}}
                await qemu.stop()
                assert await qmp.closed()
                assert not path.exists(), "nobody can come in between"
            await eventually(lambda: presence(fleet) is Presence.ENDED)
            with pytest.raises(FileNotFoundError):
                await asyncio.open_unix_connection(path)
            await qemu.start()
        await eventually(path.exists)


async def test_before_the_first_link_clients_wait(tmp_path: Path) -> None:
    qemu = FakeQemu(tmp_path / "q")
    async with fleet_of(vm(qemu)):
        client = Client(*await asyncio.open_unix_connection(tmp_path / "guard.sock"))
        async with qemu:
            assert "QMP" in await client.receive()
        client.writer.close()


async def test_with_absent_wait_they_wait_also_after_qemus_end(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu, absent=Absent.WAIT)) as fleet:
        await eventually(lambda: presence(fleet) is Presence.LINKED)
        await qemu.stop()
        await eventually(lambda: presence(fleet) is Presence.ENDED)
        client = Client(*await asyncio.open_unix_connection(tmp_path / "guard.sock"))
        await qemu.start()
        assert "QMP" in await client.receive()
        client.writer.close()


@pytest.mark.parametrize("kind", ["tcp", "passed"])
async def test_other_sockets_refuse_too(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listen: ListenAddress = FdAddress(server.fileno())
        if kind == "tcp":
            server.close()
            listen = TcpAddress("127.0.0.1", port)
        async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu, listen)) as fleet:
            await eventually(lambda: presence(fleet) is Presence.LINKED)
            await qemu.stop()
            await eventually(lambda: presence(fleet) is Presence.ENDED)
            if kind == "tcp":
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)
            else:
                async with connected(TcpAddress("127.0.0.1", port), negotiate=False) as late:
                    assert await late.line() == b""
            await qemu.start()
            await eventually(lambda: presence(fleet) is Presence.LINKED)
            async with connected(TcpAddress("127.0.0.1", port)) as qmp:
                assert await qmp.ask("query-name") == {"return": {}}


async def test_reloads_while_it_is_closed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "guard.sock", tmp_path / "elsewhere.sock"
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        await eventually(lambda: presence(fleet) is Presence.LINKED)
        await qemu.stop()
        await eventually(lambda: presence(fleet) is Presence.ENDED)
        fleet.apply([replace(vm(qemu), name="renamed", socket_mode=0o666)])
        assert not path.exists()
        assert presence(fleet, "renamed") is Presence.ENDED
        fleet.apply([replace(vm(qemu), name="renamed", listen=UnixAddress(str(elsewhere)))])
        assert not path.exists()
        assert not elsewhere.exists()
        fleet.apply([replace(vm(qemu, absent=Absent.WAIT), name="renamed")])
        assert path.exists()
        fleet.apply([replace(vm(qemu), name="renamed", socket_mode=0o666)])
        assert not path.exists()
        await qemu.start()
        async with connected(path) as qmp:
            assert path.stat().st_mode & 0o777 == 0o666
            assert await qmp.ask("query-name") == {"return": {}}
        fleet.apply([])
        assert not path.exists()


async def test_a_path_that_is_taken_meanwhile_is_that_vms_fault_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "RESTART_DELAY", 0.02)
    path = tmp_path / "guard.sock"
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        await eventually(lambda: presence(fleet) is Presence.LINKED)
        await qemu.stop()
        await eventually(lambda: presence(fleet) is Presence.ENDED)
        path.write_text("mine")
        await qemu.start()
        await eventually(lambda: any("clients cannot connect" in note for note in fleet.vms[0].snapshot().notes))
        assert path.read_text() == "mine"
        path.unlink()
        async with connected(path) as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
        assert not any("clients cannot connect" in note for note in fleet.vms[0].snapshot().notes)


async def test_ended_is_when_all_have_been_there_and_none_is(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as one, FakeQemu(tmp_path / "r") as two:
        second = replace(vm(two), name="two", listen=UnixAddress(str(tmp_path / "two.sock")))
        async with fleet_of(vm(one), second) as fleet:
            await eventually(lambda: {presence(fleet), presence(fleet, "two")} == {Presence.LINKED})
            await one.stop()
            await eventually(lambda: presence(fleet) is Presence.ENDED)
            assert not fleet.ended.is_set()
            await one.start()
            await eventually(lambda: presence(fleet) is Presence.LINKED)
            await one.stop()
            await two.stop()
            await asyncio.wait_for(fleet.ended.wait(), TIMEOUT)
            await one.start()
            await eventually(lambda: not fleet.ended.is_set())
            await two.start()


@pytest.mark.parametrize("how", ["flag", "file", "fd"])
async def test_a_process_ends_with_its_qemus(tmp_path: Path, how: str) -> None:
    async with FakeQemu(tmp_path / "a.qemu") as one, FakeQemu(tmp_path / "b.qemu") as two:
        arguments = ["run", "--qemu", str(one.path), "--listen", str(tmp_path / "a.sock"), "--end-with-qemu"]
        numbers = []
        sock = socket.socket(socket.AF_UNIX)
        if how == "fd":
            sock.connect(str(one.path))
            numbers = [sock.fileno()]
            arguments[2] = f"fd:{sock.fileno()}"
        elif how == "file":
            text = "end_with_qemu = true\n" + vm_table(tmp_path, "a") + vm_table(tmp_path, "b")
            (tmp_path / "c.toml").write_text(text)
            arguments = ["run", "--config", str(tmp_path / "c.toml")]
        async with guard_process(tmp_path, *arguments, pass_fds=numbers) as guard:
            await guard.says("ready: ")
            sock.close()
            await one.stop()
            if how == "file":
                await guard.says("vm=a link=down")
                assert guard.alive
                await two.stop()
            async with asyncio.timeout(TIMEOUT):
                assert await guard.process.wait() == 0
            assert guard.faults() == []


async def test_a_yanked_link_is_made_anew_at_once_and_ends_nothing(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        for count in (1, 2, 3):
            await eventually(lambda count=count: qemu.connections == count)  # type: ignore[misc]
            await eventually(lambda: presence(fleet) is Presence.LINKED)
            qemu.die()
            await eventually(lambda: presence(fleet) is Presence.LOST)
        assert not fleet.ended.is_set()
