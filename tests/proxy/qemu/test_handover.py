"""A link that goes from one guard to the next: QEMU sees one connection, and what was known of it stays known."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import UnixAddress
from qmpguard.config import VmConfig
from qmpguard.daemon.guard import GuardedVm
from qmpguard.policy.device import Device
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.policy import Policy
from qmpguard.proxy.listening.peer import ProcessIdentity
from qmpguard.proxy.qemu.handover import Handover, decode
from qmpguard.wire.qemu_messages import Greeting
from tests.support.fakes.qemu import GREETING, FakeQemu
from tests.support.guarding import TIMEOUT, connected, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.proxy.qemu.handover import Inheritance

HIDDEN = Device("", "vfio-pci", "vf0", host="65:00.0", failover_pair_id="net0")
PROCESS = ProcessIdentity(7, 107, 108, 1, 4711)
VDPA = netdev("vhost-vdpa", "n")
HANDOVER = Handover(
    *("web", "unix:/q", Greeting(json.dumps(GREETING).encode() + b"\r\n"), 41),
    (HIDDEN,),
    (VDPA,),
    PROCESS,
    frozenset({"net0"}),
)


def test_what_is_written_is_read() -> None:
    read = decode(HANDOVER.encode())
    assert (read.vm, read.qemu, read.number, read.hidden, read.netdevs) == ("web", "unix:/q", 41, (HIDDEN,), (VDPA,))
    assert (read.greeting.line, read.process) == (HANDOVER.greeting.line, PROCESS)
    assert read.negotiated == {"net0"}


def test_a_guard_of_an_earlier_version_tells_no_process() -> None:
    state = json.loads(HANDOVER.encode())
    del state["process"]
    assert decode(json.dumps(state).encode()).process is None


def test_a_guard_of_before_back_ends_were_remembered_has_none() -> None:
    state = json.loads(HANDOVER.encode())
    del state["netdevs"]
    assert decode(json.dumps(state).encode()).netdevs == ()


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(HANDOVER.encode()), **values}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        changed(version=2),
        changed(greeting="{}"),
        changed(greeting=None),
        changed(number="many"),
        changed(hidden=[{"id": "vf0"}]),
        changed(hidden=[None]),
        changed(process=7),
        changed(process=[]),
        changed(process=["many", 1]),
    ],
)
def test_anything_else_is_not_gone_on_with(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- whatever is wrong with it
        decode(data)


@asynccontextmanager
async def heir(qemu: Path, inheritance: Inheritance) -> AsyncGenerator[GuardedVm]:
    """The next guard."""
    listen = UnixAddress(str(qemu.with_name("heir.sock")))
    guard = GuardedVm(VmConfig("test", UnixAddress(str(qemu)), listen, Policy(), watch=0))
    guard.vm.connections.inherit(inheritance)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(guard.run())
        async with asyncio.timeout(TIMEOUT):
            await guard.vm.connected.wait()
        yield guard
        task.cancel()


async def test_the_next_guard_goes_on_with_the_same_connection(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        async with guarding(qemu.path) as guard:
            async with connected(tmp_path / "guard.sock") as qmp:
                assert await qmp.ask("query-name") == {"return": {}}
            guard.vm.gate.memory.primaries.add(HIDDEN)
            guard.vm.gate.memory.netdevs.add(VDPA)
            await guard.drain()
            inheritance = await guard.vm.release()
            assert inheritance is not None
        used = inheritance.handover.number
        qemu.emit("RESUME")  # while there is no guard
        async with heir(qemu.path, inheritance) as after, connected(tmp_path / "heir.sock", oob=True) as qmp:
            assert after.vm.gate.memory.primaries.devices == (HIDDEN,)
            assert after.vm.gate.memory.netdevs.devices == (VDPA,)
            assert await qmp.ask("query-name", id="mine") == {"return": {}, "id": "mine"}
            qmp.send({"exec-oob": "query-yank", "id": "mine"})
            await qemu.until("query-yank")
            assert next(each["id"] for each in qemu.seen if "exec-oob" in each) == used + 1
            assert "RESUME" in [getattr(entry.what, "name", "") for entry in after.vm.journal.since(0)]
        assert qemu.connections == 1
        assert [r.get("execute") for r in qemu.seen].count("qmp_capabilities") == 1


async def test_a_qemu_that_went_away_meanwhile_is_looked_for_anew(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        async with guarding(qemu.path) as guard:
            await guard.drain()
            inheritance = await guard.vm.release()
            assert inheritance is not None
        qemu.die()
        async with heir(qemu.path, inheritance) as after:
            async with asyncio.timeout(TIMEOUT):
                while qemu.connections < 2:  # noqa: ASYNC110 -- the guard may or may not have noticed yet
                    await asyncio.sleep(0.01)
                await after.vm.connected.wait()
            async with connected(tmp_path / "heir.sock") as qmp:
                assert await qmp.ask("query-name") == {"return": {}}


async def test_a_link_with_something_under_way_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmpguard.proxy.serving.REST", 0.05)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.hold.add("query-name")
            qmp.send({"execute": "query-name"})
            await qemu.until("query-name")
            assert await guard.vm.release() is None, "a client is there"
        await guard.drain()
        assert await guard.vm.release() is None, "QEMU owes a reply"


async def test_a_message_that_has_half_arrived_is_not_handed_over(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.send_bytes(b'{"event": "RES')
        link = guard.vm.link
        assert link is not None
        async with asyncio.timeout(TIMEOUT):
            while not link._splitter.held:  # noqa: ASYNC110 -- nothing announces half a message
                await asyncio.sleep(0.01)
        await guard.drain()
        assert await guard.vm.release() is None
