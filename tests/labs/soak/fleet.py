"""Many simulated QEMUs in one process: `python -m tests.labs.soak.fleet FOLDER SEED NICE VM...`.

Each listens at FOLDER/VM.qemu. They send events now and then, and have the faults that standard input orders.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from qmpguard.address import UnixAddress
from qmpguard.simulator.description import Description
from qmpguard.simulator.server import SimulatedQemu
from tests.labs.soak import worker
from tests.labs.soak.plan import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence


#: seconds between two events of some VM of the fleet
EVENT = 0.1
#: events of a storm, and how many are sent at once
STORM, BURST = 5000, 500
#: what half a reply, nonsense and a foreign id look like
HALF = b'{"return": {"status": "runn'
NONSENSE = b'\r\n\xff\xfe}]{"QMP": 17, "return"\r\n'
FOREIGN = b'{"return": {}, "id": 987654321}\r\n'
GPU = {"driver": "vfio-pci", "id": "gpu0", "host": "0000:65:00.0"}


class Berth:
    """The place of one VM: a QEMU runs there, ends, and comes back with other devices."""

    def __init__(self, path: Path, random: Random) -> None:
        self._path = path
        self._random = random
        self.away = 0.0  # seconds until the next QEMU comes
        self.qemu = self._new()

    async def run(self) -> None:
        """Let one QEMU run after the other, until cancelled."""
        while True:
            self._path.unlink(missing_ok=True)
            async with self.qemu.monitor as monitor:
                await monitor.ended.wait()
            self._path.unlink(missing_ok=True)
            await asyncio.sleep(self.away)
            self.away, self.qemu = 0.0, self._new()

    def _new(self) -> SimulatedQemu:
        devices = (GPU,) if self._random.random() < 0.6 else ()
        version = self._random.choice(("7.2", "11.1"))
        return SimulatedQemu(Description(version=version, devices=devices, migration=2.0), UnixAddress(str(self._path)))

    async def suffer(self, name: str, seconds: float) -> None:
        """Have a fault, and be well after it."""
        qemu = self.qemu.monitor
        match name:
            case Kind.KILLED.label:
                self.away = seconds
                qemu.die()
            case Kind.STOPPED.label:
                qemu.silent = True
                await asyncio.sleep(seconds)
                qemu.silent = False
                qemu.let_go()
            case Kind.SLOW.label:
                qemu.delay = 0.2
                await asyncio.sleep(seconds)
                qemu.delay = 0.0
            case Kind.HALF.label:
                qemu.send_bytes(HALF)
                qemu.die()
            case Kind.NONSENSE.label:
                qemu.send_bytes(NONSENSE)
            case Kind.FOREIGN.label:
                qemu.send_bytes(FOREIGN)
            case Kind.EVENTS.label:
                await storm(self.qemu)
            case _:
                raise ValueError(f"no such fault of a QEMU: {name}")


async def storm(qemu: SimulatedQemu) -> None:
    """Send thousands of events."""
    for _ in range(STORM // BURST):
        for number in range(BURST):
            qemu.emit("RTC_CHANGE", {"offset": number, "qom-path": "/machine/rtc"})
        await asyncio.sleep(0)


async def chat(berths: Sequence[Berth], random: Random) -> None:
    """Let some VM send an event now and then."""
    while True:
        await asyncio.sleep(random.expovariate(1 / EVENT))
        for berth in berths:
            berth.qemu.monitor.seen.clear()  # there will be millions
        random.choice(berths).qemu.emit("RTC_CHANGE", {"offset": random.randrange(9), "qom-path": "/machine/rtc"})


async def fleet(folder: Path, seed: int, names: Sequence[str]) -> None:
    """Run the VMs until standard input ends."""
    random = Random(seed)
    berths = {name: Berth(folder / f"{name}.qemu", random) for name in names}
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(berth.run()) for berth in berths.values()]
        running.append(tasks.create_task(chat(list(berths.values()), random)))
        await asyncio.sleep(0)
        worker.tell({"ready": len(names)})
        async for name, vm, seconds in worker.orders():
            running.append(tasks.create_task(berths[vm].suffer(name, seconds)))
            running = [task for task in running if not task.done()]
        for task in running:
            task.cancel()


if __name__ == "__main__":
    if sys.argv[3] == "nice":
        worker.be_nice()
    with suppress(KeyboardInterrupt):
        asyncio.run(fleet(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:]))
