"""SessionRegistry on real QEMUs: what is answered while the main loop is held, and what a crowd of clients sees."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.guarding import Client, assert_refused, connected, eventually
from tests.support.qemus import EACH

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu
    from qmpguard.testing.plugin import StartGuard, StartQemu

pytestmark = EACH


class Blockade:
    """A unix socket whose backlog is full: QEMU's main loop waits in connect(2) for as long as that is so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(0)
        self.waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for sock in self.waiting:
            sock.setblocking(False)
            sock.connect_ex(str(path))

    @property
    def command(self) -> dict[str, Any]:
        data = {"addr": {"type": "unix", "data": {"path": str(self.path)}}, "server": False}
        return {
            "execute": "chardev-add",
            "arguments": {"id": "c", "backend": {"type": "socket", "data": data}},
            "id": "held",
        }

    def lift(self) -> None:
        self.server.listen(16)
        self.server.accept()[0].close()

    def close(self) -> None:
        for sock in (self.server, *self.waiting):
            sock.close()


@contextmanager
def blockade(path: Path) -> Generator[Blockade]:
    it = Blockade(path)
    try:
        yield it
    finally:
        it.lift()
        it.close()


async def hold(guarded: GuardedQemu, client: Client, blockade: Blockade) -> None:
    """Send the command that holds the main loop, and wait until it is at QEMU."""
    before = guarded.snapshot().counts.passed
    client.send(blockade.command)
    await eventually(lambda: guarded.snapshot().counts.passed > before)


async def test_out_of_band_is_answered_while_the_main_loop_is_held(guarded_qemu: GuardedQemu, tmp_path: Path) -> None:
    async with (
        connected(guarded_qemu.path, oob=True) as one,
        connected(guarded_qemu.path, oob=True) as two,
    ):
        with blockade(tmp_path / "b") as held:
            await hold(guarded_qemu, one, held)
            one.send(*({"execute": "query-status", "id": i} for i in range(7)))
            two.send({"execute": "query-status", "id": "in-band"})
            for qmp in (one, two):
                for number in range(3):
                    qmp.send({"exec-oob": "query-yank", "id": ["oob", number]})
                    assert (await qmp.receive())["id"] == ["oob", number]
        assert [(await one.receive())["id"] for _ in range(8)] == ["held", *range(7)]
        assert (await two.receive())["id"] == "in-band"


async def test_an_operation_waits_while_the_main_loop_is_held(guarded_qemu: GuardedQemu, tmp_path: Path) -> None:
    """Busy is not broken: the verdict comes when QEMU has answered."""
    async with (
        connected(guarded_qemu.path, oob=True) as one,
        connected(guarded_qemu.path, oob=True) as two,
    ):
        arguments = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        with blockade(tmp_path / "b") as held:
            await hold(guarded_qemu, one, held)
            two.send({"execute": "migrate-set-capabilities", "arguments": arguments, "id": "judged"})
            two.send({"exec-oob": "query-yank", "id": "oob"})
            assert (await two.receive())["id"] == "oob"
        assert (await two.receive())["id"] == "judged"


async def test_a_pretty_monitor_is_guarded_as_well(
    start_qemu: StartQemu, start_guard: StartGuard, tmp_path: Path
) -> None:
    pretty = tmp_path / "pretty.sock"
    start_qemu("-chardev", f"socket,id=p,path={pretty},server=on,wait=off", "-mon", "chardev=p,mode=control,pretty=on")
    async with connected(start_guard(pretty).path) as qmp:
        assert (await qmp.ask("query-status", id=[1]))["id"] == [1]
        arguments = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        assert await qmp.ask("migrate-set-capabilities", arguments) == {"return": {}}
        assert_refused(await qmp.ask("object-add", {"qom-type": "monitor-qmp", "id": "m"}), "new-monitor")


async def test_a_crowd_is_served_and_each_sees_every_event_once_and_in_its_place(guarded_qemu: GuardedQemu) -> None:
    ready, told = asyncio.Barrier(65), asyncio.Event()

    async def watch() -> None:
        async with connected(guarded_qemu.path) as qmp:
            await ready.wait()
            await told.wait()
            qmp.send({"execute": "query-status", "id": "end"})
            seen = [await qmp.receive() for _ in range(5)]
            assert [m.get("event", m.get("id")) for m in seen] == ["STOP", "RESUME", "STOP", "RESUME", "end"]

    async with asyncio.TaskGroup() as tasks, connected(guarded_qemu.path) as qmp:
        for _ in range(64):
            tasks.create_task(watch())
        await ready.wait()
        qmp.send(*({"execute": command, "id": command} for command in ("stop", "cont") * 2))
        seen = [await qmp.receive() for _ in range(8)]
        assert [m.get("event", m.get("id")) for m in seen] == ["STOP", "stop", "RESUME", "cont"] * 2
        told.set()
