"""The demo where no QEMU can be had: the guard is real, and the QEMU behind it is only simulated."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qmpguard.address import UnixAddress
from qmpguard.demo.story import POSTCOPY, SNAPSHOT, chapter, client, guard_process, note, reached, say
from qmpguard.simulator.description import Description
from qmpguard.simulator.server import simulating

#: the device of the guarded VM
_DEVICE = {"driver": "vfio-user-pci", "id": "gpu0"}
_AWAY = {"uri": "unix:/nowhere"}


async def tell_simulated(reason: str) -> None:
    """Run the demo with a simulated QEMU. The first line says so, with the reason."""
    print(f"SIMULATED: the QEMU of this demo is only simulated, since {reason}")
    with tempfile.TemporaryDirectory(prefix="qmpguard-") as folder:
        await _chapter(Path(folder), 1, "A VM with a VFIO device, behind qmpguard", device=True)
        await _chapter(Path(folder), 2, "A VM without one: everything passes", device=False)


async def _chapter(folder: Path, number: int, title: str, *, device: bool) -> None:
    chapter(number, title)
    path = folder / f"qemu{number}.sock"
    description = Description(devices=(_DEVICE,) if device else (), migration=0.2)
    async with (
        simulating(description, UnixAddress(str(path))),
        guard_process(path) as socket,
        client(socket) as qmp,
    ):
        await say(qmp, "query-status")
        await say(qmp, "migrate-set-capabilities", POSTCOPY)
        if device:
            await say(qmp, "migrate-set-capabilities", SNAPSHOT)
            note("QEMU never received these commands. A plain migration passes, with a warning:")
        await say(qmp, "migrate", _AWAY)
        await reached(qmp, "completed")
