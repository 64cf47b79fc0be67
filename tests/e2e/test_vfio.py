"""A real QEMU 11.1 with a real VFIO device, asked by qemu.qmp clients: first directly, then through the guard.

The direct half says what happens without a guard; if a future QEMU refuses by itself, these tests will tell.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from qmpguard.testing import qmp_client
from tests.support.guarding import TIMEOUT, capabilities
from tests.support.qemus import NEW

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu, TestedQemu
    from qmpguard.testing.plugin import StartGuard, StartQemu

pytestmark = [
    *NEW,
    pytest.mark.qemu_options(monitors=2),
]

POSTCOPY = capabilities(postcopy_ram=True)
SNAPSHOT = capabilities(background_snapshot=True)
AWAY = {"uri": "exec:cat >/dev/null"}


@dataclass
class Vm:
    """A running VM: ``qmp`` is the client under test, ``behind`` a second monitor that no guard sees."""

    qmp: QMPClient
    behind: QMPClient
    guarded: GuardedQemu | None

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
async def clients(qemu: TestedQemu, guarded: GuardedQemu | None = None) -> AsyncGenerator[Vm]:
    """Connect to a VM, behind a guard or not, and to its second monitor."""
    async with qmp_client((guarded or qemu).path) as qmp, qmp_client(qemu.others[0]) as behind:
        yield Vm(qmp, behind, guarded)


@pytest.fixture
async def alone(qemu_with_vfio: TestedQemu) -> AsyncGenerator[Vm]:
    """A VM with a VFIO device and without a guard."""
    async with clients(qemu_with_vfio) as found:
        yield found


@pytest.fixture
async def it(qemu_with_vfio: TestedQemu, start_guard: StartGuard) -> AsyncGenerator[Vm]:
    """A guarded VM with a VFIO device."""
    async with clients(qemu_with_vfio, start_guard(qemu_with_vfio)) as found:
        yield found


@pytest.fixture
async def bare(qemu: TestedQemu, start_guard: StartGuard) -> AsyncGenerator[Vm]:
    """A guarded VM without one."""
    async with clients(qemu, start_guard(qemu)) as found:
        yield found


async def destination(qemu: TestedQemu, folder: Path) -> str:
    """Let a QEMU wait for a migration with postcopy, and return the URI to it."""
    async with qmp_client(qemu.path) as qmp:
        await qmp.execute("migrate-set-capabilities", POSTCOPY)
        uri = f"unix:{folder / 'm.sock'}"
        await qmp.execute("migrate-incoming", {"uri": uri})
        return uri


async def refused(client: QMPClient, command: str, arguments: dict[str, Any]) -> str:
    """Send a command that must be refused by the guard, and return the refusal."""
    with pytest.raises(ExecuteError) as error:
        await client.execute(command, arguments)
    assert error.value.error_class == "GenericError"
    assert "qmpguard: rule" in str(error.value)
    return str(error.value)


@pytest.mark.userfaultfd
async def test_qemu_itself_lets_postcopy_happen(
    alone: Vm, start_qemu: StartQemu, tmp_path: Path, vfio_device: dict[str, Any]
) -> None:
    there = start_qemu("-incoming", "defer", "-device", json.dumps(vfio_device))
    assert await alone.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
    assert await alone.qmp.execute("migrate", {"uri": await destination(there, tmp_path)}) == {}
    assert await alone.migrated() == "completed"


@pytest.mark.userfaultfd
async def test_qemu_itself_lets_a_background_snapshot_happen(alone: Vm) -> None:
    assert await alone.qmp.execute("migrate-set-capabilities", SNAPSHOT) == {}
    assert await alone.qmp.execute("migrate", AWAY) == {}
    assert await alone.migrated() == "completed"


async def test_qemu_itself_takes_the_device_with_the_capability_on(
    qemu: TestedQemu, vfio_device: dict[str, Any]
) -> None:
    async with clients(qemu) as it:
        await it.qmp.execute("migrate-set-capabilities", POSTCOPY)
        assert await it.qmp.execute("device_add", vfio_device) == {}
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
async def test_the_capability_is_refused_when_the_device_is_there(it: Vm, capability: str, sentence: str) -> None:
    arguments = {"capabilities": [{"capability": capability, "state": True}]}
    desc = await refused(it.qmp, "migrate-set-capabilities", arguments)
    assert desc.startswith(sentence)
    assert "device 'gpu0'" in desc
    assert not await it.is_on(capability)


async def test_the_device_is_refused_when_the_capability_is_on(bare: Vm, vfio_device: dict[str, Any]) -> None:
    assert await bare.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
    assert "rule vfio-postcopy" in await refused(bare.qmp, "device_add", vfio_device)
    assert await bare.devices() == set()


async def test_a_migration_is_refused_when_the_capability_came_from_behind(it: Vm) -> None:
    await it.behind.execute("migrate-set-capabilities", POSTCOPY)
    assert "rule vfio-postcopy" in await refused(it.qmp, "migrate", AWAY)
    status: Any = await it.behind.execute("query-migrate")
    assert "status" not in status


async def test_a_plain_migration_passes_with_a_warning_that_the_devices_state_is_lost(it: Vm) -> None:
    assert await it.qmp.execute("migrate", AWAY) == {}
    assert await it.migrated() == "completed"
    assert it.guarded is not None
    counts = it.guarded.snapshot().counts
    assert (counts.refused, counts.warned) == (0, 1)


async def test_switching_the_capability_off_passes(it: Vm) -> None:
    await it.behind.execute("migrate-set-capabilities", POSTCOPY)
    assert await it.qmp.execute("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {}
    assert not await it.is_on("postcopy-ram")
    assert await it.qmp.execute("migrate", AWAY) == {}


@pytest.mark.userfaultfd
async def test_a_background_snapshot_passes_without_a_device(bare: Vm) -> None:
    assert await bare.qmp.execute("migrate-set-capabilities", SNAPSHOT) == {}
    assert await bare.qmp.execute("migrate", AWAY) == {}
    assert await bare.migrated() == "completed"


@pytest.mark.userfaultfd
async def test_postcopy_passes_without_a_device_and_the_device_may_come_back_after_it(
    bare: Vm, start_qemu: StartQemu, vfio_device: dict[str, Any], tmp_path: Path
) -> None:
    uri = await destination(start_qemu("-incoming", "defer"), tmp_path)
    assert await bare.qmp.execute("migrate-set-capabilities", POSTCOPY) == {}
    assert await bare.qmp.execute("migrate", {"uri": uri}) == {}
    assert await bare.migrated() == "completed"
    assert await bare.is_on("postcopy-ram")
    assert await bare.qmp.execute("device_add", vfio_device) == {}
    assert "rule vfio-postcopy" in await refused(bare.qmp, "migrate", AWAY)
