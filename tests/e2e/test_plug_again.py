"""Unplug the device, migrate with postcopy, plug it in again: honest work, on the source and on the destination.

The capability stays on at both ends; that is a leftover, until somebody wants to migrate again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.guarding import TIMEOUT, Client, assert_refused, capabilities, connected
from tests.support.qemus import NEW

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.testing.plugin import StartGuard, StartQemu

pytestmark = [
    *NEW,
    pytest.mark.userfaultfd,
]

POSTCOPY = capabilities(postcopy_ram=True)
AWAY = {"uri": "tcp:127.0.0.1:1"}


async def until(qmp: Client, status: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while (await qmp.ask("query-migrate"))["return"].get("status") != status:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)


async def turn_on_postcopy(qmp: Client) -> None:
    assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}


async def test_a_device_may_come_back_on_either_side_and_is_safe_there(
    start_qemu: StartQemu, start_guard: StartGuard, vfio_device: dict[str, Any], tmp_path: Path
) -> None:
    here, there = start_guard(start_qemu()), start_guard(start_qemu("-incoming", "defer"))
    device = vfio_device
    async with connected(here.path) as source, connected(there.path) as destination:
        clients = (source, destination)
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
