"""A migration with the state of real VFIO devices, source and destination both guarded."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.labs.vfio.devices import Kind, Mediated, mediated
from tests.labs.vfio.rows import Place, Row, broken, expect
from tests.labs.vfio.vms import Vm, device, named, on, started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

AWAY = "exec:cat >/dev/null"
#: bytes of state that mtty sends for each device
STATE = 60
#: a byte for the device's scratch register, and that register (8250's UART_SCR)
SCRATCH, REGISTER = 0x5A, 7
#: MiB of RAM that no compression of zeros shortens, to keep a migration running long enough to look
FILL = 24


@dataclass(frozen=True, slots=True)
class Pair:
    """A source with devices, and a destination with as many that waits."""

    source: Vm
    destination: Vm
    uri: str


@asynccontextmanager
async def pair(place: Place, count: int = 1) -> AsyncGenerator[Pair]:
    """Start both, each behind a guard of its own."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(mediated(place.lab, *[Kind.MIGRATABLE] * 2 * count))
        source = await stack.enter_async_context(started(place, plugged(made[:count])))
        incoming = [*plugged(made[count:]), "-incoming", "defer"]
        destination = await stack.enter_async_context(started(place, incoming))
        yield Pair(source, destination, f"unix:{destination.qemu.place}/in")


def plugged(made: list[Mediated]) -> list[str]:
    """Return the words of a command line for devices."""
    return [word for i, one in enumerate(made) for word in device(one.arguments(f"gpu{i}"))]


async def port(vm: Vm) -> int:
    """Return the I/O port of the first device's first range, which the firmware has chosen; 0 when it has not."""
    for bus in (await vm.behind.ask("query-pci"))["return"]:
        for one in bus["devices"]:
            if one["qdev_id"] == "gpu0":
                return int(max(0, *(region["address"] for region in one["regions"] if region["type"] == "io")))
    return 0


async def mapped(vm: Vm) -> int:
    """Wait until the firmware has mapped the device, and return its port."""
    async with asyncio.timeout(60):
        while not (found := await port(vm)):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.2)
    return found


async def scratch(vm: Vm, at: int) -> int:
    """Return what the device's scratch register holds: HMP `i` says `portb[0xc007] = 0x5a`."""
    return int((await vm.line(f"i /b {at + REGISTER:#x}")).rpartition("=")[2], 16)


def share(seen: dict[str, dict[str, int]]) -> int | None:
    """Return the VFIO devices' bytes of a migration; None where QEMU tells none."""
    return seen.get("vfio", {}).get("transferred")


async def state_arrives(place: Place) -> str:
    """Write a register of the device, migrate, and read it at the destination."""
    async with pair(place) as both:
        at = await mapped(both.source)
        await both.source.line(f"o /b {at + REGISTER:#x} {SCRATCH:#x}")
        expect(await scratch(both.source, at) == SCRATCH, "the register does not hold")
        await both.destination.ok("migrate-incoming", uri=both.uri)
        await both.source.ok("migrate", uri=both.uri)
        seen = await both.source.ended()
        expect(seen["status"] == "completed", seen)
        await running(both.destination)
        arrived = await scratch(both.destination, at)
        expect(arrived == SCRATCH, f"{arrived:#x}")
        expect(share(seen) == STATE, seen)
    return f"the register arrives, vfio.transferred {STATE}"


async def running(vm: Vm) -> None:
    """Wait until a destination runs."""
    async with asyncio.timeout(60):
        while (await vm.behind.ask("query-status"))["return"]["status"] != "running":  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def bytes_begin_at_zero(place: Place) -> str:
    """Migrate twice with two devices, and look before, between and after, at QEMU and at the guard."""
    kinds = (Kind.MIGRATABLE, Kind.MIGRATABLE)
    async with mediated(place.lab, *kinds) as made, started(place, plugged(made), watch=1.0) as vm:
        numbers = [share(await vm.migration())]
        for _ in range(2):
            await vm.ok("migrate-set-capabilities", **on("pause-before-switchover"))
            await vm.ok("migrate", uri=AWAY)
            numbers.append(share(await vm.ended("pre-switchover")))
            await told(vm, numbers[-1])
            await vm.ok("migrate-continue", state="pre-switchover")
            numbers.append(share(await vm.ended()))
            await told(vm, numbers[-1])
            await vm.ok("cont")
        expect(numbers == [None, *numbers[1:3], *numbers[1:3]], numbers)
        expect((numbers[1] or 0) < 2 * STATE == numbers[2], numbers)
    return f"vfio.transferred before, then twice at switchover and end: {', '.join(map(str, numbers))}"


async def told(vm: Vm, number: int | None) -> None:
    """Wait until the guard tells so many bytes, in its metrics and its interface; raises `Broken` if it never does."""
    progress = vm.guard.vm.snapshot().history.progress
    for _ in range(100):
        if progress is not None and progress.vfio == number:
            return
        await asyncio.sleep(0.2)
        progress = vm.guard.vm.snapshot().history.progress
    broken(f"QEMU tells {number} bytes, and the guard {progress}")


async def postcopy(place: Place) -> str:
    """Ask for postcopy on the source, on the destination, and for its phase while the migration runs."""
    async with pair(place) as both:
        said = ""
        for vm in (both.source, both.destination):
            said = named(await vm.error("migrate-set-capabilities", **on("postcopy-ram")), "vfio-postcopy", "gpu0")
        await both.destination.capability("postcopy-ram")
        named(await both.destination.error("migrate-incoming", uri=both.uri), "vfio-postcopy")
        await both.destination.capability("postcopy-ram", on=False)
        await both.destination.ok("migrate-incoming", uri=both.uri)
        await both.source.ok("migrate-set-capabilities", **on("pause-before-switchover"))
        await both.source.ok("migrate", uri=both.uri)
        await both.source.ended("pre-switchover")
        named_or_qemu = await both.source.error("migrate-start-postcopy")
        await both.source.ok("migrate-continue", state="pre-switchover")
        expect((await both.source.ended())["status"] == "completed", await both.source.migration())
    return f"{said}; migrate-start-postcopy: {named_or_qemu}"


async def while_running(place: Place) -> str:
    """Plug, unplug and switch a capability while a migration runs, then cancel it."""
    async with mediated(place.lab, Kind.MIGRATABLE, Kind.MIGRATABLE) as made, started(place, plugged(made[:1])) as vm:
        await vm.ok("migrate-set-capabilities", **on("pause-before-switchover"))
        await vm.ok("migrate", uri=AWAY)
        await vm.ended("pre-switchover")
        said = [
            await vm.error("device_add", **made[1].arguments("gpu1")),
            await vm.error("device_del", id="gpu0"),
            await vm.error("migrate-set-capabilities", **on("events")),
            named(await vm.error("migrate-set-capabilities", **on("postcopy-ram")), "vfio-postcopy"),
        ]
        await vm.ok("migrate_cancel")
        expect((await vm.ended())["status"] == "cancelled", await vm.migration())
    return "; ".join(said)


async def snapshot_to_disk(place: Place) -> str:
    """savevm and loadvm, snapshot-save and snapshot-load of a running VM with a device."""
    image = f"/tmp/image{place.lab.fresh()}"
    await place.lab.run(f"qemu-img create -q -f qcow2 {image} 256M")
    disk = ["-blockdev", f"driver=qcow2,node-name=v,file.driver=file,file.filename={image}"]
    async with mediated(place.lab, Kind.MIGRATABLE) as made, started(place, [*plugged(made), *disk]) as vm:
        at = await mapped(vm)
        await vm.line(f"o /b {at + REGISTER:#x} {SCRATCH:#x}")
        said = await vm.ok("human-monitor-command", **{"command-line": "savevm one"})
        expect(not said, said)
        await vm.line(f"o /b {at + REGISTER:#x} 0")
        said = await vm.ok("human-monitor-command", **{"command-line": "loadvm one"})
        expect("Error" not in said, said)
        held = await scratch(vm, at)
        expect(held == SCRATCH, f"after loadvm: {held:#x}")
        seen = share(await vm.migration())
        for command in ("snapshot-save", "snapshot-load"):
            await vm.ok(command, **{"job-id": command, "tag": "two", "vmstate": "v", "devices": ["v"]})
            if error := await job(vm, command):
                broken(f"{command}: {error}")
    return f"the register comes back, vfio.transferred {seen}"


async def job(vm: Vm, name: str) -> str:
    """Wait for the end of a job, and return its error."""
    async with asyncio.timeout(60):
        while True:
            jobs = {one["id"]: one for one in (await vm.behind.ask("query-jobs"))["return"]}
            if jobs[name]["status"] == "concluded":
                return str(jobs[name].get("error", ""))
            await asyncio.sleep(0.2)


async def no_p2p(place: Place) -> str:
    """Plug a second device that has no P2P, with migration forced on."""
    async with mediated(place.lab, Kind.NO_P2P, Kind.NO_P2P) as made, started(place, plugged(made[:1])) as vm:
        return await vm.error("device_add", **made[1].arguments("gpu1"))


async def blocked(place: Place) -> str:
    """Migrate a VM with a device that cannot, and with one that may not."""
    async with mediated(place.lab, Kind.FIXED, Kind.MIGRATABLE) as made:
        fixed = device(made[0].arguments("gpu0", **{"enable-migration": "auto"}))
        off = device(made[1].arguments("gpu1", **{"enable-migration": "off"}))
        async with started(place, [*fixed, *off]) as vm:
            reasons = (await vm.migration())["blocked-reasons"]
            said = await vm.error("migrate", uri=AWAY)
            expect(said.endswith(reasons[-1]), said)
    return f"{len(reasons)} blockers, refused by the last: {said}"


ROWS = (
    Row("state arrives", "a plain migration passes both guards, and the device's state arrives", state_arrives),
    Row(
        "bytes begin at 0",
        "vfio.transferred begins at 0 with each migration, and the guard tells it",
        bytes_begin_at_zero,
    ),
    Row("postcopy", "postcopy is refused on the source and on the destination", postcopy),
    Row(
        "while it runs", "what QEMU excludes during a migration stays excluded, and it can be cancelled", while_running
    ),
    Row(
        "snapshot to disk", "savevm, loadvm, snapshot-save and snapshot-load pass and keep the state", snapshot_to_disk
    ),
    Row("two without P2P", "a second device that would block the first is refused", no_p2p),
    Row("blockers", "a migration that QEMU blocks is refused in QEMU's words", blocked),
)
