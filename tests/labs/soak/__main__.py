"""`make soak`: one guard of 204 VMs under mixed load and random faults, for an hour.

200 QEMUs are simulated and four are real. Each 10 s the guard is looked at; the figures of each minute are printed, and
drawn at the end. The exit code is 1 if anything happened that must not, and 2 where a QEMU is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.plot import lines
from qmpguard.demo.lab import LabUnavailable, system_qemu, vfio_qemu
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.record import MAX_ENTRIES
from tests.labs.hostile.bystander import Bystander
from tests.labs.hostile.world import noted
from tests.labs.soak.machines import RealVm
from tests.labs.soak.plan import Part, plan
from tests.labs.soak.samples import Sample, growth, look, minutes, panels, table
from tests.labs.soak.stage import GuardFaults, Names, config, names, write
from tests.labs.soak.tally import Tally
from tests.labs.soak.worker import Hand
from tests.support.process import guard_process

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tests.support.process import Process

#: seconds between two looks at the guard
LOOK = 10.0
#: seconds for all parts to stand
START = 300.0
#: clients of VMs that are never touched, and seconds between two batches of their requests
INNOCENT, INNOCENT_PAUSE = 8, 0.25
#: seconds that an answer of the admin interface may take
SCRAPE = 30.0
#: a metric that counts what a VM's journal keeps
KEPT = re.compile(r'^qmpguard_(decisions|events)_total\{.*?vm="([^"]+)".*\} (\d+)', re.MULTILINE)


class Options(NamedTuple):
    """What is asked for. ``real``: how many VMs run on real QEMUs; half of them have a VFIO device."""

    minutes: float
    simulated: int
    real: int
    seed: int


async def soak(options: Options, folder: Path) -> tuple[list[Sample], Tally]:
    """Run a soak, and return its samples and what was seen."""
    tally, samples = Tally(), list[Sample]()
    vms = names(options.simulated, options.real)
    async with AsyncExitStack() as stack:
        reals = await stack.enter_async_context(real_vms(folder, vms, tally))
        await workers(stack, folder, vms, options.seed, tally)
        path = write(folder, config(folder, vms))
        guard = await stack.enter_async_context(guard_process(folder, "run", "--config", str(path)))
        await up(folder, len(vms.all), guard)
        tally.hands["load"] = await hired(stack, tally, "load", str(folder), str(options.seed), *vms.touched, *vms.real)
        await under_way(options, folder, guard, reals, vms, tally, samples)
        tally.faults += guard.faults()
        if not guard.alive:
            tally.faults.append(f"the guard ended with {guard.process.returncode}")
        elif code := await guard.end():
            tally.faults.append(f"the guard ended with {code} at SIGTERM")
    tally.faults += growth(samples)
    return samples, tally


async def workers(stack: AsyncExitStack, folder: Path, vms: Names, seed: int, tally: Tally) -> None:
    """Start the simulated QEMUs: those that are never touched in a process of their own."""
    half = len(vms.touched) // 2
    groups = {"left": vms.touched[:half], "right": vms.touched[half:], "quiet": vms.quiet}
    for number, (name, group) in enumerate(groups.items()):
        nice = "usual" if name == "quiet" else "nice"
        hand = await hired(stack, tally, "fleet", str(folder), str(seed + number), nice, *group)
        tally.hands.update(dict.fromkeys(group, hand))


async def hired(stack: AsyncExitStack, tally: Tally, module: str, *words: str) -> Hand:
    """Start a worker that ends with the soak, and wait until it stands."""
    ready = asyncio.Event()

    def told(message: dict[str, Any]) -> None:
        ready.set()
        tally.take(message)

    hand = await Hand.start(told, module, *words)
    stack.push_async_callback(hand.gone)
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    listening = tasks.create_task(hand.listen())
    stack.callback(listening.cancel)
    async with asyncio.timeout(START):
        await ready.wait()
    return hand


@asynccontextmanager
async def real_vms(folder: Path, vms: Names, tally: Tally) -> AsyncGenerator[dict[str, RealVm]]:
    """Run the real QEMUs: one half of the system's, the other one with a VFIO device."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        found = {}
        device = folder / "vfio.sock"
        if vms.real:
            await stack.enter_async_context(VfioUserServer(device))
        for number, name in enumerate(vms.real):
            binary, at = (vfio_qemu(), device) if number % 2 else (system_qemu(), None)
            found[name] = RealVm(folder / name, binary, at, tally.faults.append)
        running = [tasks.create_task(vm.run()) for vm in found.values()]
        try:
            async with asyncio.timeout(START):
                for vm in found.values():
                    await vm.ready.wait()
            yield found
        finally:
            for task in running:
                task.cancel()


async def under_way(
    options: Options,
    folder: Path,
    guard: Process,
    reals: dict[str, RealVm],
    vms: Names,
    tally: Tally,
    samples: list[Sample],
) -> None:
    """Let clients and faults come for the time that was asked for, and look at the guard meanwhile."""
    innocent = [Bystander(folder / f"{name}.sock", INNOCENT_PAUSE) for name in vms.quiet[:INNOCENT]]
    stop, seconds = asyncio.Event(), options.minutes * 60
    async with asyncio.TaskGroup() as tasks:
        for one in innocent:
            tasks.create_task(noted(one.run(stop), "an innocent client: ", tally.faults))
        blows = tasks.create_task(strike(options, guard, folder, reals, vms, tally))
        await watch(folder, guard, innocent, seconds, tally, samples)
        blows.cancel()
        stop.set()


async def strike(
    options: Options, guard: Process, folder: Path, reals: dict[str, RealVm], vms: Names, tally: Tally
) -> None:
    """Make the faults of the plan, each at its time."""
    loop = asyncio.get_running_loop()
    begun, own = loop.time(), GuardFaults(guard, folder, vms, options.seed)
    async with asyncio.TaskGroup() as tasks:
        for blow in plan(options.seed, options.minutes * 60, vms.touched, vms.real):
            await asyncio.sleep(begun + blow.at - loop.time())
            tally.counts[f"fault: {blow.kind.label}"] += 1
            match blow.kind.part:
                case Part.SIMULATED:
                    tally.hands[blow.vm].order(blow.line)
                case Part.CLIENT:
                    tally.hands["load"].order(blow.line)
                case Part.REAL:
                    tasks.create_task(reals[blow.vm].suffer(blow.kind, blow.seconds))
                case Part.GUARD:
                    tasks.create_task(own.strike(blow))


async def watch(
    folder: Path, guard: Process, innocent: list[Bystander], seconds: float, tally: Tally, samples: list[Sample]
) -> None:
    """Take a sample each 10 s until the time is over, or the guard is gone."""
    loop = asyncio.get_running_loop()
    begun, printed = loop.time(), 1
    while guard.alive and loop.time() < begun + seconds:
        await asyncio.sleep(begun + min((len(samples) + 1) * LOOK, seconds) - loop.time())
        served = tally.new_replies() + sum(one.served for one in innocent)
        worst = max((one.worst for one in innocent), default=0.0)
        for one in innocent:
            one.served, one.worst = 0, 0.0
        seen = look(guard, loop.time() - begun, served, 0, worst)  # metrics take room
        samples.append(seen._replace(entries=await entries(folder, tally)))
        rows = minutes(samples)
        for row in rows[printed - 1 : -1]:
            print(table([row]).splitlines()[-1], flush=True)
            printed += 1


async def entries(folder: Path, tally: Tally) -> int:
    """Return how many entries the journals keep, by the guard's metrics; 0, and a fault, where it does not answer."""
    try:
        return kept_entries(await scrape(folder / "admin.sock"))
    except (OSError, TimeoutError) as error:
        tally.faults.append(f"the admin interface did not answer: {error!r}")
        return 0


def kept_entries(metrics: str) -> int:
    """Return how many decisions and events the journals keep: a ring of either for each VM."""
    counts: dict[tuple[str, str], int] = {}
    for kind, vm, count in KEPT.findall(metrics):
        counts[kind, vm] = counts.get((kind, vm), 0) + int(count)
    return sum(min(MAX_ENTRIES, count) for count in counts.values())


async def scrape(path: Path) -> str:
    """Return the guard's metrics. Raises `OSError` or `TimeoutError`."""
    async with asyncio.timeout(SCRAPE):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = await reader.read(-1)
        writer.close()
    return text.decode(errors="replace")


async def up(folder: Path, count: int, guard: Process) -> None:
    """Wait until the guard has a link to each QEMU."""
    async with asyncio.timeout(START):
        while True:
            assert guard.alive, guard.text[-2000:]
            with suppress(OSError):
                links = re.findall(r"^qmpguard_upstream_up\{.*\} 1", await scrape(folder / "admin.sock"), re.MULTILINE)
                if len(links) >= count:
                    return
            await asyncio.sleep(0.5)


def told(samples: list[Sample], tally: Tally, say: Callable[[str], None] = print) -> None:
    """Print what was seen: figures by minute, counts, and faults."""
    say(table(minutes(samples)))
    for name, count in sorted(tally.counts.items()):
        say(f"{name:32} {count}")
    for fault in tally.faults[:50]:
        say(f"FAULT {fault}")
    say(f"{'faults that must not be':32} {len(tally.faults)}")


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.labs.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--vms", type=int, default=200, help="simulated QEMUs, at least four")
    parser.add_argument("--real", type=int, default=4, help="real QEMUs; each second one has a VFIO device")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--plot", type=Path, default=Path("build/soak.svg"))
    given = parser.parse_args()
    print(f"seed {given.seed}: {given.vms} simulated and {given.real} real QEMUs for {given.minutes:g} min", flush=True)
    with TemporaryDirectory(prefix="soak") as folder:
        try:
            options = Options(given.minutes, max(4, given.vms), given.real, given.seed)
            samples, tally = asyncio.run(soak(options, Path(folder)))
        except LabUnavailable as error:
            print(f"soak: {error}", file=sys.stderr)
            return 2
    given.plot.parent.mkdir(parents=True, exist_ok=True)
    given.plot.write_text(lines(panels(minutes(samples))))
    told(samples, tally)
    print(f"the plot is {given.plot}")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
