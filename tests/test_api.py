"""The public names, as a test suite that drives QEMU uses them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import qmpguard
from qmpguard.errors import UnavailableError
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_qemu_is_guarded_for_as_long_as_the_block_lasts(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with (
            qmpguard.guarding(str(qemu.path), f"unix:{listen}", name="mine") as guard,
            connected(listen) as client,
        ):
            reply = await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert_refused(reply, "vfio-postcopy")
            assert guard.vm.counts.refused == 1
        assert not listen.exists()


async def test_a_policy_may_be_given(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    policy = qmpguard.Policy(mode=qmpguard.Mode.WARN)
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with qmpguard.guarding(str(qemu.path), str(listen), policy=policy), connected(listen) as client:
            reply = await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert reply == {"return": {}}


async def test_a_live_vm_can_be_checked(tmp_path: Path) -> None:
    listen = str(tmp_path / "guard.sock")
    async with FakeQemu(tmp_path / "qemu.sock") as qemu, qmpguard.guarding(str(qemu.path), listen):
        assert not (await qmpguard.check(listen)).refuses
        qemu.devices["gpu0"] = "vfio-pci"
        report = await qmpguard.check(listen)
        assert report.refuses
        assert {p.way: p.rule for p, _ in report.forecasts if p.way == "postcopy"} == {"postcopy": "vfio-postcopy"}


async def test_no_qemu_is_said_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.daemon.guard.START_TIMEOUT", 0.05)
    with pytest.raises(UnavailableError, match="did not answer"):
        async with qmpguard.guarding(str(tmp_path / "none"), str(tmp_path / "guard.sock")):
            pass
    assert not (tmp_path / "guard.sock").exists()


async def test_what_the_block_raises_stays_what_it_is(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        with pytest.raises(ZeroDivisionError):
            async with qmpguard.guarding(str(qemu.path), str(tmp_path / "guard.sock")):
                _ = 1 / 0


def test_every_public_name_is_there() -> None:
    assert all(getattr(qmpguard, name) is not None for name in qmpguard.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = qmpguard.nonsense


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, qmpguard; print(*[m for m in sys.modules if m.startswith(('qmpguard.', 'asyncio'))])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["qmpguard.version"]
