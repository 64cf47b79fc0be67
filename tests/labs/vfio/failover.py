"""A failover pair that a Linux guest has negotiated: a virtio-net with failover=on, and a real card on vfio-pci.

Source and destination each have a card of their own. QEMU unplugs the source's when a migration begins, and plugs the
destination's in while it loads the state of the virtio-net.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.labs.vfio.host import CARDS
from tests.labs.vfio.rows import Place, Row, broken, expect
from tests.labs.vfio.saved import MACHINE, MEMORY, guest
from tests.labs.vfio.vms import ENDED, LOOK, Vm, named, on, started

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

#: seconds for the guest's driver to find the card; it takes 20, and minutes on a busy machine
DRIVER = 400.0
#: seconds for a migration, most of it for the guest to let its card go
MIGRATION = 300.0
#: seconds for the guest to add up its file twice; it takes 10 to 30
SUM = 300.0
#: bytes a second that leave time to begin the postcopy phase
SLOW = 1 << 20
POSTCOPY, SNAPSHOT = "postcopy-ram", "background-snapshot"


@dataclass(slots=True)
class Seen:
    """What became of a migration of the pair."""

    statuses: list[str] = field(default_factory=list)  # of the source, each once
    ends: list[str] = field(default_factory=list)  # source and destination: run state, devices, last words, cards

    def __str__(self) -> str:
        """Return it as the table shows it."""
        return f"source: {' → '.join(self.statuses)}; {'; '.join(self.ends)}"


def words(card: str) -> list[str]:
    """Return the words of a command line for a guest that waits, with a primary."""
    primary = f"vfio-pci,host={card},id=gpu0,failover_pair_id=net0,bus=rp0,rombar=0"
    return [*guest("/guest", "console"), "-device", primary, "-incoming", "defer"]


@asynccontextmanager
async def running(place: Place, card: str) -> AsyncGenerator[Vm]:
    """Start a VM from the saved guest, and wait until its driver has the primary."""
    async with started(place, words(card), machine=MACHINE, memory=MEMORY) as vm:
        await vm.ok("migrate-incoming", uri="exec:cat /state/guest")
        await has_card(vm)
        yield vm


async def console(vm: Vm) -> list[str]:
    """Return what the guest has said since it runs here."""
    return (await vm.qemu.lab.run(f"cat {vm.qemu.place}/console")).splitlines()


async def cards(vm: Vm) -> str:
    """Return the drivers of the guest's cards, as it has told them last; empty when it has told none here."""
    told = [line for line in await console(vm) if "guest: cards" in line]
    return told[-1].partition("cards")[2].strip() if told else ""


async def has_card(vm: Vm) -> bool:
    """Wait until the guest's driver has the primary, and return whether it ever does."""
    for _ in range(int(DRIVER / 2)):
        if "=e1000e" in await cards(vm):
            return True
        await asyncio.sleep(2)
    return False


async def memory(vm: Vm) -> str:
    """Return the sum of the guest's file in memory, computed after this is called; raises `Broken` when none comes."""
    before = sums(await console(vm))
    for _ in range(int(SUM)):
        if len(after := sums(await console(vm))) > len(before) + 1:  # the first may have been under way
            return after[-1]
        await asyncio.sleep(1)
    return broken("the guest computes no sum")


def sums(lines: list[str]) -> list[str]:
    """Return the sums in a console's lines."""
    return [line.partition("memory")[2].split()[0] for line in lines if "guest: memory" in line and line.endswith("-")]


async def lives(vm: Vm) -> bool:
    """Return whether the guest goes on."""
    before = len(await console(vm))
    for _ in range(60):
        if len(await console(vm)) > before:
            return True
        await asyncio.sleep(1)
    return False


async def followed(vm: Vm, seen: Seen, then: Callable[[], Awaitable[object]] | None = None) -> None:
    """Note the states of a migration until it has ended; ``then`` is done once when it is active."""
    async with asyncio.timeout(MIGRATION):
        while True:
            status = str((await vm.migration()).get("status"))
            if seen.statuses[-1:] != [status]:
                seen.statuses.append(status)
            if status in ENDED:
                return
            if status == "active" and then is not None:
                await then()
                then = None
            await asyncio.sleep(LOOK)


async def end(name: str, vm: Vm) -> str:
    """Return what is left of a VM: run state or exit status, whether the primary is there, and its last words."""
    said = (await vm.qemu.log()).strip().splitlines()
    warnings = [line.partition(": ")[2] for line in said if "dma-buf" not in line]
    if (status := await vm.qemu.status(2)) is not None:
        return f"{name}: QEMU ended with {status}: {warnings[-1:]}"
    state = (await vm.behind.ask("query-status"))["return"]["status"]
    there = "gpu0" in str((await vm.behind.ask("qom-list", {"path": "/machine/peripheral"}))["return"])
    return f"{name}: {state}, primary {'there' if there else 'gone'}, QEMU says {warnings or 'nothing'}"


async def plain(place: Place) -> str:
    """Migrate the plain way, through both guards."""
    async with running(place, CARDS[0]) as source, waiting(place) as destination:
        uri = f"unix:{destination.qemu.place}/in"
        await destination.ok("migrate-incoming", uri=uri)
        await source.ok("migrate", uri=uri)
        seen = Seen()
        await followed(source, seen)
        seen.ends += [await end("source", source), await end("destination", destination)]
        expect(seen.statuses[-1] == "completed", seen)
        expect("wait-unplug" in seen.statuses, seen)
        expect(await has_card(destination), f"{seen}, the guest has {await cards(destination)}")
    return f"{seen}; the guest has its primary again"


@asynccontextmanager
async def waiting(place: Place) -> AsyncGenerator[Vm]:
    """Start the destination."""
    async with started(place, words(CARDS[1]), machine=MACHINE, memory=MEMORY) as vm:
        yield vm


async def refused(place: Place) -> str:
    """Ask for a background snapshot with the pair there."""
    async with running(place, CARDS[0]) as vm:
        return named(await vm.error("migrate-set-capabilities", **on(SNAPSHOT)), "vfio-background-snapshot", "gpu0")


async def with_postcopy(place: Place, *, begun: bool) -> str:
    """Migrate with postcopy on, through both guards; ``begun``: and begin its phase."""
    seen = Seen()
    async with running(place, CARDS[0]) as source, waiting(place) as destination:
        uri = f"unix:{destination.qemu.place}/in"
        before = await memory(source)
        for vm in (source, destination):
            await vm.ok("migrate-set-capabilities", **on(POSTCOPY))
        await destination.ok("migrate-incoming", uri=uri)
        if begun:
            await source.ok("migrate-set-parameters", **{"max-bandwidth": SLOW})
        await source.ok("migrate", uri=uri)
        await followed(source, seen, (lambda: source.ok("migrate-start-postcopy")) if begun else None)
        expect(seen.statuses[-1] == "completed", seen)
        await asyncio.sleep(5)
        seen.ends += [await end("source", source), await end("destination", destination)]
        expect("QEMU ended" not in seen.ends[-1], seen)
        expect(await lives(destination), f"{seen}; the guest stands still")
        expect(await memory(destination) == before, f"{seen}; the guest's memory has changed")
        gone = "primary gone" in seen.ends[1]
        seen.ends.append(await plugged_again(destination) if gone else await got(destination))
        expect(await memory(destination) == before, f"{seen}; the guest's memory has changed")
        seen.ends.append("the guest's memory is as before")
    return str(seen)


async def plugged_again(vm: Vm) -> str:
    """Plug the primary in again when the migration is over, through the guard, and return what comes of it."""
    await vm.ok("migrate-set-capabilities", **on(POSTCOPY, state=False))
    primary = {"driver": "vfio-pci", "host": CARDS[1], "id": "gpu0", "failover_pair_id": "net0", "bus": "rp0"}
    reply = await vm.qmp.ask("device_add", {**primary, "rombar": 0})
    if "error" in reply:
        return f"device_add afterwards, postcopy-ram off: {reply['error']['desc']}"
    return f"device_add afterwards, with postcopy-ram off, passes, {await got(vm)}"


async def got(vm: Vm) -> str:
    """Return whether the guest's driver gets the primary."""
    return "the guest has its primary" if await has_card(vm) else f"the guest has only {await cards(vm)}"


async def postcopy(place: Place) -> str:
    """Migrate with postcopy on and its phase begun."""
    return await with_postcopy(place, begun=True)


async def advised(place: Place) -> str:
    """Migrate with postcopy on, and never begin its phase."""
    return await with_postcopy(place, begun=False)


async def background(place: Place) -> str:
    """Take a background snapshot, asked of QEMU itself."""
    seen = Seen()
    async with running(place, CARDS[0]) as vm:
        await vm.capability(SNAPSHOT)
        expect("return" in await vm.behind.ask("migrate", {"uri": "exec:cat >/dev/null"}), "migrate is refused")
        await followed(vm, seen)
        await asyncio.sleep(5)
        seen.ends.append(await end("source", vm))
        if "QEMU ended" not in seen.ends[-1]:
            seen.ends.append(f"guest {'goes on' if await lives(vm) else 'stands still'}, cards: {await cards(vm)}")
    return str(seen)


ROWS = (
    Row("failover, plain", "a negotiated pair migrates through both guards", plain, seconds=2400),
    Row("failover, refused", "a background snapshot is refused with the pair there", refused, seconds=1800),
    Row("failover, postcopy", "a pair passes postcopy; the guest keeps its memory and goes on", postcopy, seconds=3600),
    Row("failover, advised", "the same with postcopy on and its phase not begun", advised, seconds=3600),
    Row("failover, snapshot", "what QEMU itself does: background snapshot", background, fact=True, seconds=1800),
)
