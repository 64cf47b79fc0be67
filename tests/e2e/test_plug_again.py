"""Unplug the device, migrate with postcopy, plug it in again: honest work, on the source and on the destination.

The capability stays on at both ends; that is a leftover, until somebody wants to migrate again.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from tests.support.guarding import TIMEOUT, Client, assert_refused, capabilities, connected, guarding

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.qemu11, pytest.mark.userfaultfd]

POSTCOPY = capabilities(postcopy_ram=True)
AWAY = {"uri": "tcp:127.0.0.1:1"}


async def until(qmp: Client, status: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while (await qmp.ask("query-migrate"))["return"].get("status") != status:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)


async def turn_on_postcopy(qmp: Client) -> None:
    assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}


async def test_a_device_may_come_back_on_either_side_and_is_safe_there(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(VfioUserServer(tmp_path / "vu.sock"))
        device = vfio_user_device(server.path, id="gpu0")
        clients = []
        for name, arguments in (("src", []), ("dst", ["-incoming", "defer"])):
            (tmp_path / name).mkdir()
            qemu = await stack.enter_async_context(Qemu(vfio_qemu(), tmp_path / name, arguments, machine="pc"))
            await stack.enter_async_context(guarding(qemu.monitors[0]))
            clients.append(await stack.enter_async_context(connected(tmp_path / name / "guard.sock")))
        source, destination = clients
        for qmp in (destination, source):
            await turn_on_postcopy(qmp)
        assert_refused(await destination.ask("device_add", device), "vfio-postcopy")
        uri = f"unix:{tmp_path / 'migration.sock'}"
        assert await destination.ask("migrate-incoming", {"uri": uri}) == {"return": {}}
        await source.ask("migrate-set-parameters", {"max-bandwidth": 20_000})
        assert await source.ask("migrate", {"uri": uri}) == {"return": {}}
        await until(source, "active")
        assert_refused(await source.ask("device_add", device), "vfio-postcopy")
        assert_refused(await destination.ask("device_add", device), "vfio-postcopy")
        assert await source.ask("migrate-start-postcopy") == {"return": {}}
        await source.ask("migrate-set-parameters", {"max-postcopy-bandwidth": 0})
        for qmp in clients:
            await until(qmp, "completed")
        for qmp in clients:
            assert await qmp.ask("device_add", device) == {"return": {}}
            assert_refused(await qmp.ask("migrate", AWAY), "vfio-postcopy")
            assert await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {"return": {}}
            assert "qmpguard" not in str(await qmp.ask("migrate", AWAY))
