"""What `check` says of snapshots to disk, CPR and COLO is what QEMU then does: each is tried on a throw-away QEMU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.qemu import vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.policy.forecast import Forecast, Passes
from qmpguard.remote.report import check
from tests.e2e.test_check import Shell
from tests.e2e.test_hazards import (
    FILLING,
    ONLY_7,
    ONLY_11,
    QEMUS,
    SAVE,
    ended,
    fill,
    job,
    named,
    size_of_snapshot,
    turn_on,
    vm,
)
from tests.support.guarding import system_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qmpguard.demo.qemu import Qemu
    from tests.support.guarding import Client


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


async def said(address: Path, way: str) -> tuple[Forecast, str]:
    """What check says of a way, and why it cannot begin now."""
    report = await check(str(address))
    return next((p, obstacle) for p, obstacle in report.forecasts if p.way == way)


async def explained(asks: Shell, address: Path, command: str, **arguments: Any) -> bool:
    """Whether explain says that a command passes, the guard and QEMU itself."""
    request = json.dumps({"execute": command, "arguments": arguments})
    code, said = await asks.json("explain", "--machine", address, request)
    assert (code == 0) == (said["verdict"] in ("passes", "warned", "not judged"))
    return code == 0


async def saves(direct: Client, qemu: Qemu) -> bool:
    """Whether a snapshot to disk, taken without the guard, ends well and holds the memory."""
    try:
        error = await job(direct, "snapshot-save", SAVE)
    except ConnectionError:  # the connection ended in the midst of it
        await qemu.process.wait()
        return False
    return not error and await size_of_snapshot(direct) > len(FILLING)


#: what is set beforehand
SET: list[tuple[str, dict[str, Any]]] = [
    ("nothing", {}),
    ("x-colo", {"capability": "return-path"}),
    ("multifd", {"capability": "multifd"}),
    ("x-ignore-shared", {"capability": "x-ignore-shared"}),
    ("dirty-bitmaps", {"capability": "dirty-bitmaps"}),
]


@pytest.mark.parametrize(("name", "setting"), SET, ids=[name for name, _ in SET])
@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize("binary", QEMUS)
async def test_a_snapshot_to_disk(
    tmp_path: Path, binary: Callable[[], Path], shell: Shell, state: str, name: str, setting: dict[str, Any]
) -> None:
    async with vm(binary(), tmp_path, named(tmp_path)) as (_, direct, qemu):
        fill(qemu)
        if setting:
            await turn_on(direct, setting["capability"])
        if state == "paused":
            await direct.ask("stop")
        forecast, obstacle = await said(tmp_path / "guard.sock", "snapshot to disk")
        assert not obstacle
        assert (forecast.passes is Passes.YES) == await explained(
            shell, tmp_path / "guard.sock", "snapshot-save", **SAVE
        )
        assert (forecast.passes is Passes.YES) == await saves(direct, qemu)


@pytest.mark.parametrize("mode", ["normal", "cpr-exec"])
@pytest.mark.parametrize("binary", ONLY_11)
async def test_a_snapshot_to_disk_in_a_mode(
    tmp_path: Path, binary: Callable[[], Path], shell: Shell, mode: str
) -> None:
    async with vm(binary(), tmp_path, named(tmp_path)) as (_, direct, qemu):
        fill(qemu)
        await direct.ask("migrate-set-parameters", {"mode": mode, "cpr-exec-command": ["q"]})
        forecast, _ = await said(tmp_path / "guard.sock", "snapshot to disk")
        assert (forecast.passes is Passes.YES) == await explained(
            shell, tmp_path / "guard.sock", "snapshot-save", **SAVE
        )
        assert (forecast.passes is Passes.YES) == await saves(direct, qemu)


@pytest.mark.skipif(system_version() >= (8, 2), reason="the system's QEMU has CPR")
@pytest.mark.parametrize("binary", ONLY_7)
async def test_an_old_qemu_has_no_cpr(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path, disk=False) as (_, direct, _):
        _, obstacle = await said(tmp_path / "guard.sock", "CPR")
        assert obstacle == "this QEMU has no CPR"
        assert "error" in await direct.ask("migrate-set-parameters", {"mode": "cpr-reboot"})


@pytest.mark.parametrize("vfio", [False, True])
@pytest.mark.parametrize("binary", ONLY_11)
async def test_cpr_by_reboot(tmp_path: Path, binary: Callable[[], Path], shell: Shell, vfio: bool) -> None:
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        words = ["-device", json.dumps(vfio_user_device(server.path, id="gpu0"))] if vfio else []
        async with vm(binary(), tmp_path, words, disk=False) as (_, direct, _):
            forecast, obstacle = await said(tmp_path / "guard.sock", "CPR")
            assert not obstacle
            assert forecast.passes is (Passes.WARNED if vfio else Passes.YES)  # the device's state is lost
            await direct.ask("migrate-set-parameters", {"mode": "cpr-reboot"})
            assert await explained(shell, tmp_path / "guard.sock", "migrate", uri="exec:cat")
            assert await direct.ask("migrate", {"uri": f"exec:cat > {tmp_path / 'state'}"}) == {"return": {}}
            assert await ended(direct) == "completed"


@pytest.mark.parametrize("vfio", [False, True])
@pytest.mark.parametrize("binary", QEMUS)
async def test_colo(tmp_path: Path, binary: Callable[[], Path], shell: Shell, vfio: bool) -> None:
    if vfio and binary is not ONLY_11[0].values[0]:
        return  # it has no device for it
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        words = ["-device", json.dumps(vfio_user_device(server.path, id="gpu0"))] if vfio else []
        async with vm(binary(), tmp_path, words, disk=False) as (_, direct, _):
            forecast, obstacle = await said(tmp_path / "guard.sock", "COLO")
            assert not obstacle
            assert forecast.passes is (Passes.NO if vfio else Passes.YES)
            assert forecast.qemu_check.refuses.value == ("no" if vfio else "unknown")
            states = [{"capability": c, "state": True} for c in ("return-path", "x-colo")]
            assert await direct.ask("migrate-set-capabilities", {"capabilities": states}) == {"return": {}}
            assert await explained(shell, tmp_path / "guard.sock", "migrate", uri="unix:/nowhere") is not vfio
            # QEMU takes it, with the device as without
            assert await direct.ask("migrate", {"uri": f"unix:{tmp_path / 'nobody'}"}) == {"return": {}}
