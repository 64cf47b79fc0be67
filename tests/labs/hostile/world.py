"""Hostile clients at one VM of a guard in its own process, an honest one beside them, and one at another VM."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.demo.qemu import Qemu
from tests.labs.hostile.account import Fault
from tests.labs.hostile.bystander import Bystander
from tests.labs.hostile.client import Hostile
from tests.labs.hostile.ids import SHAPES
from tests.labs.hostile.sweep import Sweep
from tests.support.fakes.qemu import ForgetfulQemu
from tests.support.guarding import eventually
from tests.support.process import SHOWN, Process, guard_process, vm_table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

#: hostile clients at once
CROWD = 6
#: clients that come before the baseline is taken: they load what is loaded late, and fill what keeps the last ones
WARM = 12
#: MiB that the process may have grown by when all have left: what an allocator keeps of the largest moment
GROWTH = 64.0
#: seconds between two looks at the guard, and looks that must be alike before it counts as at rest
LOOK, STILL = 0.05, 10
#: what a VM's clients may do, as TOML: the ways in which a command is judged differ
POLICIES: Mapping[str, Mapping[str, str]] = {
    "standard": {},
    "strict": {"policy": '{ profile = "strict" }'},
    "warn": {"policy": '{ mode = "warn" }'},
    "observer": {"role": '"observer"'},
}


class World(NamedTuple):
    """A guard with two VMs: hostile clients come to the first."""

    guard: Process
    folder: Path
    path: Path


class Outcome(NamedTuple):
    """What came of it. ``worst``: the longest wait of each bystander, in seconds."""

    clients: int
    replies: int
    worst: tuple[float, ...]
    faults: list[str]


@asynccontextmanager
async def world(folder: Path, policy: str, binary: Path | None) -> AsyncGenerator[World]:
    """Run a guard; both QEMUs are real with a ``binary``, and fakes without."""
    async with AsyncExitStack() as stack:
        tables = [f'[log]\naudit = "{folder}/audit"\ntraffic = "{folder}/traffic"\n']
        for name, more in (("a", POLICIES[policy]), ("b", {})):
            path = await _start_qemu(stack, folder, name, binary)
            tables.append(vm_table(folder, name, qemu=f'"{path}"', **more))
        config = folder / "guard.toml"
        config.write_text("".join(tables))
        guard = await stack.enter_async_context(guard_process(folder, "run", "--config", str(config)))
        await guard.says("link=up", 2)
        yield World(guard, folder, folder / "a.sock")


async def _start_qemu(stack: AsyncExitStack, folder: Path, name: str, binary: Path | None) -> Path:
    if binary is None:
        fake = ForgetfulQemu(folder / f"{name}.qemu")
        fake.devices["gpu0"] = "vfio-pci"
        await stack.enter_async_context(fake)
        return fake.path
    (folder / name).mkdir()
    qemu = await stack.enter_async_context(Qemu(binary, folder / name))
    return qemu.monitors[0]


async def attack(place: World, seed: str, until: Callable[[int], bool], *, sweep: bool = False) -> Outcome:
    """Let hostile clients come until that says so of their number; return what went wrong, and for which seeds.

    ``sweep``: before them comes every id with every command.
    """
    crowd = Crowd(place.path, seed)
    bystanders = [Bystander(place.folder / f"{name}.sock") for name in "ab"]
    stop, faults = asyncio.Event(), crowd.faults
    async with asyncio.TaskGroup() as tasks:
        for bystander in bystanders:
            tasks.create_task(noted(bystander.run(stop), "", faults))
        await crowd.come(lambda count: count >= WARM)
        baseline = await _rest(place.guard)
        if sweep:
            await crowd.sweep()
        await crowd.come(until)
        stop.set()
    faults = [*await _left(place.guard, baseline), *faults[: SHOWN if place.guard.alive else 1]]
    return Outcome(crowd.count, crowd.replies, tuple(b.worst for b in bystanders), faults + place.guard.faults())


async def noted(work: Awaitable[None], name: str, faults: list[str]) -> None:
    """Wait for something, and note the fault that it ends with."""
    try:
        await work
    except* (Fault, TimeoutError, OSError) as group:
        faults.extend(f"{name}{error!r}" for error in _leaves(group))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


class Crowd:
    """Hostile clients, one after the other at each of a few places. The n-th is made of the seed and its number."""

    def __init__(self, path: Path, seed: str) -> None:
        self._path = path
        self._seed = seed
        self._random = Random(seed)
        self.count = 0
        self.replies = 0
        self.faults: list[str] = []

    async def sweep(self) -> None:
        """Let a client come for each shape of an id, with every command there is."""
        for shape in SHAPES:
            if not self.faults:
                await noted(Sweep(shape, self._path).run(), f"all commands with id {shape}: ", self.faults)

    async def come(self, until: Callable[[int], bool]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CROWD):
                tasks.create_task(self._come(until))

    async def _come(self, until: Callable[[int], bool]) -> None:
        while not until(self.count) and not self.faults:
            self.count += 1
            await self._one(f"{self._seed}/{self.count}")

    async def _one(self, seed: str) -> None:
        client = Hostile(seed, self._path)
        faults: list[str] = []
        await noted(client.run(), f"client {seed}: ", faults)
        self.replies += client.replies
        self.faults += [f"{fault}; {client}" for fault in faults]


async def _rest(guard: Process) -> tuple[int, float]:
    """Return descriptors and memory as soon as nothing changes any more."""
    seen: list[int] = []
    while guard.alive and (len(seen) < STILL or len(set(seen[-STILL:])) > 1):
        seen.append(guard.descriptors)
        await asyncio.sleep(LOOK)
    return guard.descriptors, guard.memory


async def _left(guard: Process, baseline: tuple[int, float]) -> list[str]:
    """Return what the guard has kept of clients that have all left."""
    if not guard.alive:
        return [f"the guard ended with {guard.process.returncode}"]
    descriptors, memory = baseline
    faults = []
    try:
        await eventually(lambda: guard.descriptors <= descriptors)
    except TimeoutError:
        faults.append(f"{descriptors} descriptors before, {guard.descriptors} after")
    if guard.memory > memory + GROWTH:
        faults.append(f"{memory:.0f} MiB before, {guard.memory:.0f} after")
    return faults
