"""The column "would QEMU itself refuse it?" of `check` and `explain` beside what that QEMU does when asked directly.

A wrong yes or no fails; "unknown" says nothing. `make vfio-lab` does the same with real `vfio-pci` devices.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.qemu import vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.remote.report import check
from tests.e2e.test_check import Shell
from tests.e2e.test_hazards import ONLY_11, QEMUS, ended, turn_on, vm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.guarding import Client

#: what is on for each way to migrate
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "postcopy": ("postcopy-ram",),
    "background snapshot": ("background-snapshot",),
    "COLO": ("return-path", "x-colo"),
}
IVSHMEM = "ivshmem-plain,memdev=m,master=off"
MACHINES: dict[str, tuple[str, ...]] = {
    "no device": (),
    "a blocker": ("-object", "memory-backend-ram,id=m,size=1M,share=on", "-device", IVSHMEM),
    "a device that does not migrate": ("-device", "nvme,serial=1"),
}


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


async def refused(direct: Client) -> bool:
    """Whether QEMU refuses a migration when it is asked; one that it takes fails later, since nothing listens there."""
    reply = await direct.ask("migrate", {"uri": "unix:/nowhere/at/all"})
    said = str(reply.get("error", ""))
    if not said:
        await ended(direct)
    return bool(said) and "/nowhere" not in said


async def compare(folder: Path, binary: Path, words: Sequence[str], way: str, shell: Shell) -> None:
    guard = folder / "guard.sock"
    async with vm(binary, folder, words, disk=False) as (_, direct, _):
        report = await check(str(guard))
        (forecast,) = [each for each, _ in report.forecasts if each.way == way]
        for capability in WAYS[way]:
            await turn_on(direct, capability)
        request = json.dumps({"execute": "migrate", "arguments": {"uri": "unix:/nowhere/at/all"}})
        _, explained = await shell.json("explain", "--machine", guard, request)
        columns = {forecast.qemu_check.refuses.value, explained["qemu_itself"]["refuses"]} - {"unknown"}
        assert columns <= {"yes" if await refused(direct) else "no"}


@pytest.mark.userfaultfd
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("binary", QEMUS)
async def test_of_a_machine(tmp_path: Path, binary: Callable[[], Path], shell: Shell, name: str, way: str) -> None:
    await compare(tmp_path, binary(), MACHINES[name], way, shell)


@pytest.mark.userfaultfd
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("binary", ONLY_11)
async def test_of_a_vfio_device(tmp_path: Path, binary: Callable[[], Path], shell: Shell, way: str) -> None:
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        words = ["-device", json.dumps(vfio_user_device(server.path, id="gpu0"))]
        await compare(tmp_path, binary(), words, way, shell)
