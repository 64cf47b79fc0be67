"""SessionRegistry on real QEMUs: what is answered while the main loop is held, and what a crowd of clients sees."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.guarding import assert_refused, connected, guarding

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.parametrize(
        "find", [system_qemu, pytest.param(vfio_qemu, marks=pytest.mark.qemu11)], ids=["7.2", "11.1"]
    ),
]


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


async def test_out_of_band_is_answered_while_the_main_loop_is_held(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with (
        Qemu(find(), tmp_path) as qemu,
        guarding(qemu.monitors[0]),
        connected(tmp_path / "guard.sock", oob=True) as one,
        connected(tmp_path / "guard.sock", oob=True) as two,
    ):
        with blockade(tmp_path / "b") as held:
            one.send(held.command, *({"execute": "query-status", "id": i} for i in range(7)))
            two.send({"execute": "query-status", "id": "in-band"})
            for qmp in (one, two):
                for number in range(3):
                    qmp.send({"exec-oob": "query-yank", "id": ["oob", number]})
                    assert (await qmp.receive())["id"] == ["oob", number]
        assert [(await one.receive())["id"] for _ in range(8)] == ["held", *range(7)]
        assert (await two.receive())["id"] == "in-band"


async def test_an_operation_waits_while_the_main_loop_is_held(tmp_path: Path, find: Callable[[], Path]) -> None:
    """Busy is not broken: the verdict comes when QEMU has answered."""
    async with (
        Qemu(find(), tmp_path) as qemu,
        guarding(qemu.monitors[0]),
        connected(tmp_path / "guard.sock", oob=True) as one,
        connected(tmp_path / "guard.sock", oob=True) as two,
    ):
        arguments = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        with blockade(tmp_path / "b") as held:
            one.send(held.command)
            two.send({"execute": "migrate-set-capabilities", "arguments": arguments, "id": "judged"})
            two.send({"exec-oob": "query-yank", "id": "oob"})
            assert (await two.receive())["id"] == "oob"
        assert (await two.receive())["id"] == "judged"


async def test_a_pretty_monitor_is_guarded_as_well(tmp_path: Path, find: Callable[[], Path]) -> None:
    pretty = tmp_path / "pretty.sock"
    monitor = ["-chardev", f"socket,id=p,path={pretty},server=on,wait=off", "-mon", "chardev=p,mode=control,pretty=on"]
    async with (
        Qemu(find(), tmp_path, monitor),
        guarding(pretty),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        assert (await qmp.ask("query-status", id=[1]))["id"] == [1]
        arguments = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        assert await qmp.ask("migrate-set-capabilities", arguments) == {"return": {}}
        assert_refused(await qmp.ask("object-add", {"qom-type": "monitor-qmp", "id": "m"}), "new-monitor")


async def test_a_crowd_is_served_and_each_sees_every_event_once_and_in_its_place(
    tmp_path: Path, find: Callable[[], Path]
) -> None:
    async with Qemu(find(), tmp_path) as qemu, guarding(qemu.monitors[0]):
        ready, told = asyncio.Barrier(65), asyncio.Event()

        async def watch() -> None:
            async with connected(tmp_path / "guard.sock") as qmp:
                await ready.wait()
                await told.wait()
                qmp.send({"execute": "query-status", "id": "end"})
                seen = [await qmp.receive() for _ in range(5)]
                assert [m.get("event", m.get("id")) for m in seen] == ["STOP", "RESUME", "STOP", "RESUME", "end"]

        async with asyncio.TaskGroup() as tasks, connected(tmp_path / "guard.sock") as qmp:
            for _ in range(64):
                tasks.create_task(watch())
            await ready.wait()
            qmp.send(*({"execute": command, "id": command} for command in ("stop", "cont") * 2))
            seen = [await qmp.receive() for _ in range(8)]
            assert [m.get("event", m.get("id")) for m in seen] == ["STOP", "stop", "RESUME", "cont"] * 2
            told.set()
