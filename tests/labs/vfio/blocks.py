"""VFIO in the block layer: a real NVMe on vfio-pci, opened by QEMU's user-space driver."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from tests.labs.vfio.host import NVME
from tests.labs.vfio.machine import LabQemu, Release
from tests.labs.vfio.rows import Place, Row, expect
from tests.labs.vfio.vms import named, on, started
from tests.support.guarding import connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.labs.vfio.vms import Vm

#: seconds for a QEMU to open the NVMe; it takes 1 to 10
AWAKE = 30.0
NODE: dict[str, Any] = {"node-name": "disk0", "driver": "nvme", "device": NVME, "namespace": 1}
LINE = f"drive_add 0 if=none,id=disk0,driver=nvme,device={NVME},namespace=1"
RULES = {"postcopy-ram": "vfio-postcopy", "background-snapshot": "vfio-background-snapshot"}


async def awake(place: Place) -> None:
    """Open the NVMe once in a QEMU of its own, which no guard sees and whose end does not matter.

    On a busy machine the lab's NVMe loses its first interrupt: the guest's kernel tells of a write to address 0, and
    the QEMU that has opened it waits for ever. Every later one gets its interrupts.
    """
    folder = place.folder / "awake"
    folder.mkdir()
    async with LabQemu(place.lab, Release.OLD, folder) as qemu, connected(qemu.monitors[0], early=True) as qmp:
        with suppress(TimeoutError):
            async with asyncio.timeout(AWAKE):
                await qmp.ask("blockdev-add", NODE)


async def node_first(place: Place) -> str:
    """Open the NVMe, then switch each capability on, by QMP and by HMP."""
    await awake(place)
    async with started(place) as vm:
        await vm.ok("blockdev-add", **NODE)
        said = []
        for capability, rule in RULES.items():
            said.append(named(await vm.error("migrate-set-capabilities", **on(capability)), rule, "disk0", NVME))
            line = f"migrate_set_capability {capability} on"
            named(await vm.ok("human-monitor-command", **{"command-line": line}), rule, "disk0", NVME)
        await vm.ok("blockdev-del", **{"node-name": "disk0"})
        await vm.ok("migrate-set-capabilities", **on("postcopy-ram"))
    return said[0]


async def capability_first(place: Place) -> str:
    """Switch a capability on, then open the NVMe by QMP, below another node, and by HMP."""
    said = ""
    async with started(place) as vm:
        for capability, rule in RULES.items():
            await vm.ok("migrate-set-capabilities", **on(capability))
            said = named(await vm.error("blockdev-add", **NODE), rule, NVME)
            named(await vm.error("blockdev-add", driver="raw", file=NODE, **{"node-name": "top"}), rule, NVME)
            named(await vm.ok("human-monitor-command", **{"command-line": LINE}), rule, NVME)
            expect("disk0" not in str(await vm.behind.ask("query-named-block-nodes")), "it is open")
            await vm.capability(capability, on=False)
    return said


async def combination(place: Place) -> str:
    """Bring both about behind the guard's back, then migrate."""
    await awake(place)
    said = ""
    async with started(place) as vm:
        await vm.ok("blockdev-add", **NODE)
        for capability, rule in RULES.items():
            await vm.capability(capability)
            said = named(await vm.error("migrate", uri="exec:cat >/dev/null"), rule, "disk0", NVME)
            named(await vm.ok("human-monitor-command", **{"command-line": "migrate -d exec:cat"}), rule, NVME)
            await vm.capability(capability, on=False)
    return said


async def files_and_nbd(place: Place) -> str:
    """Open a file and an NBD export, switch postcopy on, and migrate."""
    async with started(place) as vm, nbd_ended(vm):
        await open_file_and_nbd(vm)
        await vm.ok("migrate-set-capabilities", **on("postcopy-ram"))
        await vm.ok("migrate", uri="exec:cat >/dev/null")  # it does not end: postcopy waits for an answer
    async with started(place) as vm, nbd_ended(vm):
        await vm.ok("migrate-set-capabilities", **on("background-snapshot"))
        await open_file_and_nbd(vm)
    return "both capabilities, both nodes and the migration pass"


@asynccontextmanager
async def nbd_ended(vm: Vm) -> AsyncGenerator[None]:
    """End a VM's NBD server at the end."""
    try:
        yield
    finally:
        await vm.qemu.lab.attempt(f"kill $(cat {vm.qemu.place}/nbd.pid)")


async def open_file_and_nbd(vm: Vm) -> None:
    """Open a file, and another one over NBD."""
    place = vm.qemu.place
    served = f"cd {place}; truncate -s 1M image served; qemu-nbd --fork --persistent --socket={place}/nbd -f raw served"
    await vm.qemu.lab.run(f"{served} --pid-file=nbd.pid")
    await vm.ok("blockdev-add", driver="file", filename=f"{place}/image", **{"node-name": "image"})
    server = {"type": "unix", "path": f"{place}/nbd"}
    await vm.ok("blockdev-add", driver="nbd", server=server, **{"node-name": "export"})


async def qemu_itself(place: Place) -> str:
    """Ask QEMU itself, with the NVMe open and each capability on, to migrate."""
    await awake(place)
    said = []
    for capability in RULES:
        async with started(place) as vm:
            await vm.ok("blockdev-add", **NODE)
            blocked = (await vm.migration()).get("blocked-reasons")
            await vm.capability(capability)
            reply = await vm.behind.ask("migrate", {"uri": "exec:cat >/dev/null"})
            expect("return" in reply, reply)
            said.append(f"{capability}: migrate {reply}, blocked-reasons {blocked}")
    return "; ".join(said)


ROWS = (
    Row("nvme first", "each capability is refused, and the node and its address are named", node_first),
    Row("nvme second", "blockdev-add and drive_add of the NVMe are refused", capability_first),
    Row("nvme and capability", "the migration is refused", combination),
    Row("files and nbd", "block nodes that are no host devices hinder nothing", files_and_nbd),
    Row("nvme, QEMU", "what QEMU itself does with the NVMe open", qemu_itself, fact=True),
)
