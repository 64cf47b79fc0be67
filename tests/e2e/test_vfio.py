"""A real QEMU 11.1 with a real VFIO device, asked by qemu.qmp clients: first directly, then through the guard.

The direct half says what happens without a guard; if a future QEMU refuses by itself, these tests will tell.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from qmpguard.demo.lab import vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from tests.support.guarding import TIMEOUT, capabilities, guarding, qmp_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.daemon.guard import GuardedVm

pytestmark = pytest.mark.qemu11

POSTCOPY = capabilities(postcopy_ram=True)
SNAPSHOT = capabilities(background_snapshot=True)
AWAY = {"uri": "exec:cat >/dev/null"}


@dataclass
class Vm:
    """A running VM: ``qmp`` is the client under test, ``behind`` a second monitor that no guard sees."""

    qmp: QMPClient
    behind: QMPClient
    device: dict[str, Any]
    guard: GuardedVm | None

    async def is_on(self, capability: str) -> bool:
        """What QEMU itself says of a capability, asked on the second monitor."""
        answer: Any = await self.behind.execute("query-migrate-capabilities")
        return next(bool(c["state"]) for c in answer if c["capability"] == capability)

    async def devices(self) -> set[str]:
        answer: Any = await self.behind.execute("qom-list", {"path": "/machine/peripheral"})
        return {entry["name"] for entry in answer if entry["type"].startswith("child<")}

    async def migrated(self) -> str:
        """How the migration ended."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                answer: Any = await self.behind.execute("query-migrate")
                if answer.get("status") in ("completed", "failed"):
                    return str(answer["status"])
                await asyncio.sleep(0.05)


@asynccontextmanager
async def vm(folder: Path, *, guarded: bool, device: bool) -> AsyncGenerator[Vm]:
    """Start a VM with or without a VFIO device, behind a guard or not."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(VfioUserServer(folder / "vu.sock"))
        description = vfio_user_device(server.path, id="gpu0")
        arguments = ["-device", json.dumps(description)] if device else []
        qemu = await stack.enter_async_context(Qemu(vfio_qemu(), folder, arguments, monitors=2, machine="pc"))
        guard = await stack.enter_async_context(guarding(qemu.monitors[0])) if guarded else None
        socket = folder / "guard.sock" if guarded else qemu.monitors[0]
        qmp = await stack.enter_async_context(qmp_client(socket))
        behind = await stack.enter_async_context(qmp_client(qemu.monitors[1]))
        yield Vm(qmp, behind, description, guard)


@asynccontextmanager
async def destination(folder: Path, *, device: bool, postcopy: bool) -> AsyncGenerator[str]:
    """Start a QEMU that waits for a migration, and give the URI to it."""
    folder = folder / "to"
    folder.mkdir()
    async with VfioUserServer(folder / "vu.sock") as server:
        arguments = ["-incoming", "defer"]
        if device:
            arguments += ["-device", json.dumps(vfio_user_device(server.path, id="gpu0"))]
        async with Qemu(vfio_qemu(), folder, arguments, machine="pc") as qemu, qmp_client(qemu.monitors[0]) as qmp:
            await qmp.execute("migrate-set-capabilities", capabilities(postcopy_ram=postcopy))
            uri = f"unix:{folder / 'm.sock'}"
            await qmp.execute("migrate-incoming", {"uri": uri})
            yield uri


async def refused(client: QMPClient, command: str, arguments: dict[str, Any]) -> str:
    """Send a command that must be refused by the guard, and return the refusal."""
    with pytest.raises(ExecuteError) as error:
        await client.execute(command, arguments)
    assert error.value.error_class == "GenericError"
    assert "qmpguard: rule" in str(error.value)
    return str(error.value)


@pytest.mark.userfaultfd
async def test_qemu_itself_lets_postcopy_happen(tmp_path: Path) -> None:
    async with (
        vm(tmp_path, guarded=False, device=True) as it,
        destination(tmp_path, device=True, postcopy=True) as uri,
    ):
        assert await it.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
        assert await it.qmp.execute("migrate", {"uri": uri}) == {}
        assert await it.migrated() == "completed"


@pytest.mark.userfaultfd
async def test_qemu_itself_lets_a_background_snapshot_happen(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=False, device=True) as it:
        assert await it.qmp.execute("migrate-set-capabilities", SNAPSHOT) == {}
        assert await it.qmp.execute("migrate", AWAY) == {}
        assert await it.migrated() == "completed"


async def test_qemu_itself_takes_the_device_with_the_capability_on(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=False, device=False) as it:
        await it.qmp.execute("migrate-set-capabilities", POSTCOPY)
        assert await it.qmp.execute("device_add", it.device) == {}
        assert await it.devices() == {"gpu0"}


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [
        (
            "postcopy-ram",
            "gpu0: VFIO migration is not supported with postcopy migration (qmpguard: rule vfio-postcopy, ",
        ),
        (
            "background-snapshot",
            "gpu0: VFIO migration is not supported with background snapshot (qmpguard: rule vfio-background-snapshot, ",
        ),
    ],
)
async def test_the_capability_is_refused_when_the_device_is_there(
    tmp_path: Path, capability: str, sentence: str
) -> None:
    async with vm(tmp_path, guarded=True, device=True) as it:
        arguments = {"capabilities": [{"capability": capability, "state": True}]}
        desc = await refused(it.qmp, "migrate-set-capabilities", arguments)
        assert desc.startswith(sentence)
        assert "device 'gpu0'" in desc
        assert not await it.is_on(capability)


async def test_the_device_is_refused_when_the_capability_is_on(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=True, device=False) as it:
        assert await it.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
        assert "rule vfio-postcopy" in await refused(it.qmp, "device_add", it.device)
        assert await it.devices() == set()


async def test_a_migration_is_refused_when_the_capability_came_from_behind(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=True, device=True) as it:
        await it.behind.execute("migrate-set-capabilities", POSTCOPY)
        assert "rule vfio-postcopy" in await refused(it.qmp, "migrate", AWAY)
        status: Any = await it.behind.execute("query-migrate")
        assert "status" not in status


async def test_a_plain_migration_passes_with_a_warning_that_the_devices_state_is_lost(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=True, device=True) as it:
        assert await it.qmp.execute("migrate", AWAY) == {}
        assert await it.migrated() == "completed"
        assert it.guard is not None
        assert (it.guard.vm.counts.refused, it.guard.vm.counts.warned) == (0, 1)


async def test_switching_the_capability_off_passes(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=True, device=True) as it:
        await it.behind.execute("migrate-set-capabilities", POSTCOPY)
        assert await it.qmp.execute("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {}
        assert not await it.is_on("postcopy-ram")
        assert await it.qmp.execute("migrate", AWAY) == {}


@pytest.mark.userfaultfd
async def test_a_background_snapshot_passes_without_a_device(tmp_path: Path) -> None:
    async with vm(tmp_path, guarded=True, device=False) as it:
        assert await it.qmp.execute("migrate-set-capabilities", SNAPSHOT) == {}
        assert await it.qmp.execute("migrate", AWAY) == {}
        assert await it.migrated() == "completed"


@pytest.mark.userfaultfd
async def test_postcopy_passes_without_a_device_and_the_device_may_come_back_after_it(tmp_path: Path) -> None:
    async with (
        vm(tmp_path, guarded=True, device=False) as it,
        destination(tmp_path, device=False, postcopy=True) as uri,
    ):
        assert await it.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
        assert await it.qmp.execute("migrate", {"uri": uri}) == {}
        assert await it.migrated() == "completed"
        assert await it.is_on("postcopy-ram")
        assert await it.qmp.execute("device_add", it.device) == {}
        assert "rule vfio-postcopy" in await refused(it.qmp, "migrate", AWAY)
