"""Network back ends on real QEMUs, as far as a machine without vDPA hardware allows: QEMU cannot open one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_exec import QEMU, running
from tests.support.guarding import assert_refused, capabilities, connected
from tests.support.qemus import on_each

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu

VDPA = {"type": "vhost-vdpa", "id": "vdpa0", "vhostdev": "/nowhere/vhost-vdpa-0"}
POSTCOPY = capabilities(postcopy_ram=True)


@on_each
def test_a_back_end_that_qemu_cannot_open_gets_qemus_own_error_and_is_not_remembered(
    guarded_qemu: GuardedQemu,
) -> None:
    ask = guarded_qemu.execute
    assert "/nowhere/vhost-vdpa-0" in ask("netdev_add", **VDPA)["error"]["desc"]
    line = "netdev_add vhost-vdpa,id=vdpa0,vhostdev=/nowhere/vhost-vdpa-0"
    assert "Error" in ask("human-monitor-command", **{"command-line": line})["return"]
    assert ask("migrate-set-capabilities", **POSTCOPY) == {"return": {}}
    assert_refused(ask("netdev_add", **VDPA), "vdpa-postcopy")


@pytest.mark.qemu
async def test_exec_knows_the_back_ends_of_qemus_command_line(tmp_path: Path) -> None:
    """The QEMU here is started without its first two words, since it cannot open the device."""
    without = ("sh", "-c", 'shift 2; exec "$@"', "sh", "-netdev", "vhost-vdpa,id=vdpa0", *QEMU)
    async with running(tmp_path, command=without), connected(tmp_path / "guard.sock") as qmp:
        reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
        assert_refused(reply, "vdpa-postcopy")
        assert "'netdev vdpa0'" in reply["error"]["desc"]
        assert (await qmp.ask("netdev_del", {"id": "vdpa0"}))["error"]["desc"] == "Device 'vdpa0' not found"
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
