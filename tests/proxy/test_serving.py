"""One link from its beginning to its end: the guard's own work on it, and its release at rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qmpguard.proxy import serving
from qmpguard.proxy.judging.drift_watch import DriftWatch
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_link_has_the_guards_own_session_and_lets_go_of_it(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        assert guard.vm.gate.surveyor.control is not None
        qemu.die()
        await eventually(lambda: guard.vm.link is None)
        assert guard.vm.gate.surveyor.control is None


async def test_where_the_guards_own_work_fails_the_link_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(_: object) -> None:
        raise KeyError("as the test says")

    async with FakeQemu(tmp_path / "q") as qemu:
        with monkeypatch.context() as patch:
            patch.setattr(DriftWatch, "run", failing)
            async with guarding(qemu.path, up=False) as guard:
                await eventually(lambda: guard.vm.counts.faults["watch"] >= 2)
                patch.undo()
                async with connected(tmp_path / "guard.sock") as qmp:
                    assert await qmp.ask("query-name") == {"return": {}}


async def test_a_link_is_released_at_rest_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REST", 0.05)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await guard.vm.release() is None, "a client is there"
            qemu.hold.add("query-name")
            qmp.send({"execute": "query-name"})
            await qemu.until("query-name")
        await eventually(lambda: not guard.vm.clients)
        link = guard.vm.link
        assert link is not None
        assert not link.is_idle
        assert await guard.vm.release() is None, "QEMU owes a reply"


async def test_a_link_that_comes_to_rest_in_time_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REST", TIMEOUT)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.hold.add("query-name")
            qmp.send({"execute": "query-name"})
            await qemu.until("query-name")
        await eventually(lambda: not guard.vm.clients)
        async with asyncio.TaskGroup() as tasks:
            release = tasks.create_task(guard.vm.release())
            await eventually(lambda: guard.vm.link is None)
            await asyncio.sleep(0)
            assert not release.done(), "QEMU owes a reply"
            qemu.let_go()
        inheritance = release.result()
        assert inheritance is not None
        assert inheritance.handover.number > 0
        inheritance.sock.close()
