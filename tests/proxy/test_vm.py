"""A VM put together: it follows another policy and other limits, is quiet at its stop, and is shown without QEMU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.access import Role
from qmpguard.address import UnixAddress
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.proxy.state.snapshot import Pulse
from qmpguard.proxy.vm import Vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_vm_without_a_link_is_shown_from_memory() -> None:
    vm = Vm("vm", UnixAddress("/nowhere"), Policy())
    vm.remarks = [lambda: "", lambda: "something to know"]
    shot = vm.snapshot()
    assert (shot.name, shot.qemu.pulse, shot.clients, shot.remarks) == ("vm", Pulse.UNKNOWN, (), ("something to know",))
    assert (vm.link, vm.greeting, vm.clients) == (None, None, [])
    assert await vm.release() is None


async def test_a_clock_that_jumps_changes_no_verdict_and_ends_no_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock is only shown: limits and overrides go by the clock of the event loop."""
    now = 2e9
    monkeypatch.setattr("time.time", lambda: now)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        guard.vm.overrides.begin("vfio-postcopy", 3600, "a test", guard.vm.clients[0].peer)
        for now in (3e9, 0.0, -5.0, 2e9):
            assert await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)) == {"return": {}}
            assert guard.vm.snapshot().time == now
        assert len(guard.vm.overrides.active) == 1
        assert guard.vm.overrides.end("vfio-postcopy")
        now = 0.0
        assert_refused(await qmp.ask("migrate", {"uri": "exec:cat"}), "vfio-postcopy")


async def test_another_policy_and_other_limits_hold_at_once_for_the_clients_that_are_there(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        assert await qmp.ask("stop") == {"return": {}}
        guard.vm.adopt(Policy(mode=Mode.WARN), replace(guard.vm.limits, role=Role.OBSERVER, survey_timeout=7))
        assert_refused(await qmp.ask("stop"), "observer")
        assert guard.vm.gate.policy.mode is Mode.WARN
        guard.vm.overrides.begin("vfio-postcopy", 60, "a test", guard.vm.clients[0].peer)
        guard.vm.adopt(Policy(), guard.vm.limits)
        assert guard.vm.snapshot().judging.overrides
        assert dict(guard.vm.snapshot().judging.modes)["vfio-postcopy"] is Mode.WARN


async def test_a_quiet_vm_reads_no_more_and_is_drained(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            guard.vm.quiesce()
            assert await qmp.closed()
        await eventually(guard.vm.sessions.drained.is_set)
