"""A VM with a host's NVMe device in the block layer, behind the guard: scripted, for the driver needs the hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, guarding

if TYPE_CHECKING:
    from pathlib import Path

NVME = {"driver": "nvme", "node-name": "disk0", "device": "0000:01:00.0", "namespace": 1}
BOTH = pytest.mark.parametrize(
    ("capability", "rule"),
    [("postcopy-ram", "vfio-postcopy"), ("background-snapshot", "vfio-background-snapshot")],
)


@BOTH
async def test_the_combination_is_refused_in_both_orders(tmp_path: Path, capability: str, rule: str) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        on = capabilities(**{capability.replace("-", "_"): True})
        off = capabilities(**{capability.replace("-", "_"): False})
        qemu.blocks["disk0"] = ("nvme", "nvme://0000:01:00.0/1")
        reply = await qmp.ask("migrate-set-capabilities", on)
        assert_refused(reply, rule)
        assert reply["error"]["desc"].startswith("0000:01:00.0: VFIO migration is not supported with ")
        assert "device 'disk0'" in reply["error"]["desc"]
        qemu.capabilities[capability] = True  # behind the guard's back
        assert_refused(await qmp.ask("migrate", {"uri": "tcp:h:1"}), rule)
        assert await qmp.ask("migrate-set-capabilities", off) == {"return": {}}
        assert await qmp.ask("migrate", {"uri": "tcp:h:1"}) == {"return": {}}
        qemu.blocks.clear()
        assert await qmp.ask("migrate-set-capabilities", on) == {"return": {}}
        assert_refused(await qmp.ask("blockdev-add", NVME), rule)
        assert await qmp.ask("blockdev-add", {"driver": "file", "filename": "/x"}) == {"return": {}}


@BOTH
async def test_a_vm_with_files_and_nbd_only_is_not_refused(tmp_path: Path, capability: str, rule: str) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.blocks |= {"a": ("file", "/images/nvme.raw"), "b": ("nbd", "nbd://h/x"), "c": ("raw", "/images/nvme.raw")}
        on = capabilities(**{capability.replace("-", "_"): True})
        assert await qmp.ask("migrate-set-capabilities", on) == {"return": {}}
        assert await qmp.ask("migrate", {"uri": "tcp:h:1"}) == {"return": {}}


async def test_block_nodes_are_asked_for_only_where_a_rule_needs_them(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, watch=0.02) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        await qemu.until("query-migrate", 5)
        assert qemu.commands().count("query-named-block-nodes") == 1  # the first look
        await qmp.ask("migrate", {"uri": "tcp:h:1"})
        await qmp.ask("device_add", {"driver": "vfio-pci", "id": "gpu0"})
        assert qemu.commands().count("query-named-block-nodes") == 1
        assert await qmp.ask("blockdev-add", NVME) == {"return": {}}
        await qemu.until("query-named-block-nodes", 2)  # the next look asks what is there now
        assert guard.vm.gate.last_seen.facts is not None
