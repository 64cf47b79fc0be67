"""Many hostile QEMUs at one guard in its own process, each with a client, and one QEMU that is well."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from tests.labs.hostile.account import Fault
from tests.labs.hostile.bystander import Bystander
from tests.labs.hostile.customer import Customer
from tests.labs.hostile.pranks import Prank
from tests.labs.hostile.qemu import HostileQemu
from tests.labs.hostile.world import noted
from tests.support.fakes.qemu import ForgetfulQemu
from tests.support.guarding import eventually
from tests.support.process import SHOWN, Process, guard_process, vm_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: hostile QEMUs at once, every third of which dials the guard; mostly they wait until the guard comes again
PRANKSTERS = 40
#: seconds for the guard to come to a hostile QEMU, and for a client to be served when QEMU is well again
TIMEOUT = 60.0
#: seconds that a prank goes on whose connection nobody closes
LASTS = 3.0


async def pranks(folder: Path, played: Sequence[Prank]) -> list[str]:
    """Play pranks on a guard; return what went wrong."""
    faults: list[str] = []
    async with AsyncExitStack() as stack:
        well = await stack.enter_async_context(ForgetfulQemu(folder / "w.qemu"))
        qemus = [HostileQemu(folder / f"h{i}.qemu", dials=i % 3 == 2, strict=i % 2 == 1) for i in range(PRANKSTERS)]
        for qemu in qemus:
            await stack.enter_async_context(qemu)
        config = folder / "guard.toml"
        config.write_text(vm_table(folder, "w") + "".join(_table(folder, qemu) for qemu in qemus))
        guard = await stack.enter_async_context(guard_process(folder, "run", "--config", str(config)))
        await guard.says("vm=w link=up")
        bystander, stop = Bystander(folder / "w.sock"), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(noted(bystander.run(stop), "", faults))
            await _play_all(qemus, list(played), guard, faults)
            stop.set()
        if not guard.alive:
            faults = [f"the guard ended with {guard.process.returncode}", *faults[:1]]
        return (
            [*faults[:SHOWN], *guard.faults()] if well.connections == 1 else ["the link of the VM that is well broke"]
        )


def _table(folder: Path, qemu: HostileQemu) -> str:
    more = {"qemu": "", "qemu_listen": f'"{qemu.path}"'} if qemu.dials else {}
    more["policy"] = '{profile = "strict"}' if qemu.strict else ""
    return vm_table(folder, qemu.path.stem, **more)


async def _play_all(qemus: list[HostileQemu], left: list[Prank], guard: Process, faults: list[str]) -> None:
    left.reverse()

    async def play(qemu: HostileQemu) -> None:
        while left and guard.alive:
            prank = left.pop()
            await noted(_play(qemu, prank, guard), f"{'dialled' if qemu.dials else 'dialling'}, {prank.name}: ", faults)

    async with asyncio.TaskGroup() as tasks:
        dialling = [tasks.create_task(qemu.dial()) for qemu in qemus]
        async with asyncio.TaskGroup() as playing:
            for qemu in qemus:
                playing.create_task(play(qemu))
        for task in dialling:
            task.cancel()


async def _play(qemu: HostileQemu, prank: Prank, guard: Process) -> None:
    """Play one prank, be well again, and see that a client is served."""
    customer = Customer(qemu.path.with_suffix(".sock"))
    qemu.play(prank)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_served(customer, qemu, guard))
        await _over(qemu, customer)
        qemu.cure()


async def _served(customer: Customer, qemu: HostileQemu, guard: Process) -> None:
    try:
        async with asyncio.timeout(TIMEOUT):
            await customer.until_served(lambda: qemu.prank is None, lambda: guard.alive)
    except TimeoutError as error:
        raise Fault(f"no client was served within {TIMEOUT:g} s after QEMU was well again") from error


async def _over(qemu: HostileQemu, customer: Customer) -> None:
    """Wait until the prank's connection is over, or a client has had all replies in it."""
    async with asyncio.timeout(TIMEOUT):
        await qemu.begun.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(LASTS):
            await eventually(lambda: qemu.played.is_set() or customer.conversations > 0)
