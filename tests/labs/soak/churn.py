"""`python -m tests.labs.soak.churn --minutes M --clients N`: a guard under random clients while QEMU comes and goes.

Every request is answered or its client or QEMU has left; the guard's descriptors and its memory do not grow from the
first minute to the last; its log says nothing that is not expected. The exit code says whether it was so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import signal
import sys
import tempfile
from contextlib import suppress
from math import inf
from pathlib import Path
from statistics import mean

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.record import MAX_ENTRIES
from tests.labs.soak.client import JUDGED, Chatter, Tally, clock
from tests.labs.soak.pair import Pair
from tests.support.guarding import connected, eventually
from tests.support.process import vm_table

#: warnings that are part of it
EXPECTED = (
    (re.compile(r" link=down reason="), "QEMU restarted"),
    (re.compile(r" verdict=refused rule=(new-monitor|vfio-postcopy|snapshot-runstate|unverified) "), "a refusal"),
    (re.compile(r" verdict=warned "), "a warning about a request"),
    (re.compile(r" waiting: QEMU is busy$"), "QEMU was busy"),
    (re.compile(r" heartbeat=(none|ok)$"), "QEMU was busy reading large requests, or about to end"),
    (re.compile(r" is a failover primary that QEMU hides"), "a primary was plugged"),
    (re.compile(r" reload failed"), "a reload that was meant to fail"),
    (re.compile(r" he closed the connection|it closed the connection|no greeting in time"), "QEMU was killed early"),
)
#: lines of the log that are many, and say little of a fault
PLENTY = re.compile(r" verdict=| QEMU hides ")
#: seconds for QEMU's last words
TIMEOUT = 30.0
#: clients of the failover pair
FOLLOWERS = 3
#: seconds between restarts of QEMU, between looks at the guard, and for the guard to settle before and after
RESTART, LOOK, SETTLE = (15.0, 40.0), 2.0, 3.0
#: growth that is noise: the clients of the moment, and what an allocator keeps
FD_NOISE, MEMORY_NOISE = 12, 0.05


class Guard:
    """The guard's process, seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._folder = Path("/proc") / str(process.pid)

    @property
    def descriptors(self) -> int:
        return len(list((self._folder / "fd").iterdir()))

    @property
    def memory(self) -> float:
        """Resident, in MiB."""
        pages = int((self._folder / "statm").read_text().split()[1])
        return pages * 4096 / (1 << 20)


class Machine:
    """A QEMU that is killed now and then, and started again."""

    def __init__(self, folder: Path, tally: Tally | None = None) -> None:
        self._folder = folder
        self._tally = tally or Tally()
        self.restarts = 0
        self.crashes: list[str] = []
        self._end = inf  # until then it is killed now and then
        self._begun = asyncio.Event()
        self._back = 0.0  # when the last restart was over
        self._away = False

    def begin(self, end: float) -> None:
        """Be killed from now on, until the end."""
        self._end = end
        self._begun.set()

    def disturbed(self, since: float) -> bool:
        """Whether QEMU was away at some time since then; the guard has a few seconds to find it again."""
        return self._away or self._back + 3 * SETTLE > since

    async def run(self, ready: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self._end:
            async with Qemu(system_qemu(), self._folder) as qemu:
                ready.set()
                self._back, self._away = loop.time(), False
                await self._begun.wait()
                left = min(random.uniform(*RESTART), max(0.0, self._end + 4 * SETTLE - loop.time()))
                if (code := await ended(qemu.process, left)) is not None:
                    words = qemu.stderr.read_text(errors="replace").strip()
                    self.crashes.append(f"QEMU ended by itself at {clock()} with {code}: {words[-500:]}")
                if loop.time() < self._end:
                    self._away = True
                    self.restarts += 1
                    await self._finish(qemu)

    async def _finish(self, qemu: Qemu) -> None:
        """End QEMU by a kill, by a `quit` through the guard, or as it is stopped in any case."""
        way = random.random()
        if way < 0.3:
            qemu.kill()
        elif way < 0.7 and (self._folder / "guard.sock").exists():
            self._tally.counts["quit beside pollers"] += 1
            if not (words := await last_words(self._folder / "guard.sock")):
                self._tally.faults.append(f"QEMU's last words did not arrive at {clock()}")
            self._tally.counts["SHUTDOWN heard"] += b"SHUTDOWN" in words


async def last_words(path: Path) -> bytes:
    """Let QEMU quit, and return what arrives of its reply and of SHUTDOWN before the connection ends."""
    async with connected(path) as qmp:
        qmp.send({"execute": "quit", "id": "last"})
        words = b""
        async with asyncio.timeout(TIMEOUT):
            while line := await qmp.line():
                words += line if b'"last"' in line or b"SHUTDOWN" in line else b""
    return words


async def ended(process: asyncio.subprocess.Process, seconds: float) -> int | None:
    """Return a process's exit code if it ends within so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await process.wait()
    return None


async def soak(minutes: float, clients: int, folder: Path) -> list[str]:
    """Run it, print what was seen, and return what went wrong."""
    log = folder / "guard.log"
    loop = asyncio.get_running_loop()
    tally = Tally()
    pair, config = Pair(folder, tally), folder / "guard.toml"
    first = '[log]\nlevel = "warning"\n'
    first += vm_table(folder, "vm", qemu=f'"{folder}/qmp0.sock"', listen=f'"{folder}/guard.sock"')
    config.write_text(first + pair.config())
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpguard", "run", "--config", str(config)),
            stderr=stderr,
        )
    guard, machine, ready = Guard(process), Machine(folder, tally), asyncio.Event()
    try:
        async with pair.qemu, asyncio.TaskGroup() as tasks:
            tasks.create_task(machine.run(ready))
            await ready.wait()
            await eventually(lambda: log.read_bytes().count(b" ready: ") == 2)
            await asyncio.sleep(SETTLE)
            await fill_journal(folder / "guard.sock")
            idle = guard.descriptors
            end = loop.time() + minutes * 60
            machine.begin(end)
            async with asyncio.TaskGroup() as crowd:
                for number in range(clients):
                    crowd.create_task(Chatter(folder / "guard.sock", number, tally, machine.disturbed).run(end))
                for _ in range(FOLLOWERS):
                    crowd.create_task(pair.follow(end))
                crowd.create_task(pair.move(process, config, first, end))
                looks = await watch(guard, end)
            await settled(guard, idle)
            left = guard.descriptors
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
    faults = [*tally.faults, *machine.crashes, *growth(looks), *unexplained(log, machine.restarts)]
    if left > idle:
        faults.append(f"the idle guard had {idle} descriptors before, and {left} after")
    if code:
        faults.append(f"the guard ended with {code}")
    report(tally, machine, looks, (idle, left), faults)
    if faults:
        sys.stdout.writelines(f"{line}\n" for line in log.read_text().splitlines() if not PLENTY.search(line))
    return faults


async def settled(guard: Guard, idle: int) -> None:
    """Wait until the guard has no more descriptors than before, and QEMU is still there: a moved VM drains for 5 s."""
    with suppress(TimeoutError):
        async with asyncio.timeout(3 * SETTLE):
            await eventually(lambda: guard.descriptors <= idle)


async def fill_journal(path: Path) -> None:
    """Let the guard remember as much as it ever will, so that this is not taken for growth."""
    async with connected(path, oob=True) as qmp:
        for i in range(MAX_ENTRIES):
            request = JUDGED[i % len(JUDGED)]()
            await qmp.ask("stop")
            await qmp.ask("cont")
            await qmp.ask(request["execute"], request.get("arguments"))


async def watch(guard: Guard, end: float) -> list[tuple[int, float]]:
    """Return descriptors and memory, look by look."""
    looks = []
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        await asyncio.sleep(LOOK)
        looks.append((guard.descriptors, guard.memory))
    return looks


def batched(looks: list[tuple[int, float]], size: int) -> list[list[tuple[int, float]]]:
    return [looks[i : i + size] for i in range(0, len(looks), size)]


def minute(looks: list[tuple[int, float]], *, last: bool) -> tuple[float, float]:
    """Return the means of the first or last minute, or half of them all if they are few."""
    count = max(1, min(int(60 / LOOK), len(looks) // 2))
    chosen = looks[-count:] if last else looks[:count]
    return mean(fds for fds, _ in chosen), mean(memory for _, memory in chosen)


def growth(looks: list[tuple[int, float]]) -> list[str]:
    (fds, memory), (later_fds, later_memory) = minute(looks, last=False), minute(looks, last=True)
    faults = []
    if later_fds > fds + FD_NOISE:
        faults.append(f"descriptors grew from {fds:.0f} to {later_fds:.0f}")
    if later_memory > memory * (1 + MEMORY_NOISE):
        faults.append(f"memory grew from {memory:.1f} to {later_memory:.1f} MiB")
    return faults


def unexplained(log: Path, restarts: int) -> list[str]:
    """Return what the log says and should not; each loss of the link is to have its restart of QEMU."""
    lines = log.read_text().splitlines()
    odd = (line for line in lines if " ready: " not in line and not any(p.search(line) for p, _ in EXPECTED))
    faults = [f"in the log: {line}" for line in odd]
    lost = sum(" vm=vm link=down reason=" in line for line in lines)
    if lost > restarts + 1:  # and the end of the last QEMU
        faults.append(f"the link was lost {lost} times, with {restarts} restarts of QEMU")
    return faults


def report(
    tally: Tally, machine: Machine, looks: list[tuple[int, float]], idle: tuple[int, int], faults: list[str]
) -> None:
    first, last = minute(looks, last=False), minute(looks, last=True)
    for name, count in sorted(tally.counts.items()):
        sys.stdout.write(f"{name:32} {count}\n")
    sys.stdout.write(f"{'restarts of QEMU':32} {machine.restarts}\n")
    sys.stdout.write(f"{'descriptors, first/last minute':32} {first[0]:.1f} / {last[0]:.1f}\n")
    sys.stdout.write(f"{'descriptors, idle before/after':32} {idle[0]} / {idle[1]}\n")
    sys.stdout.write(f"{'memory, first/last minute, MiB':32} {first[1]:.1f} / {last[1]:.1f}\n")
    by_minute = (f"{mean(memory for _, memory in chunk):.1f}" for chunk in batched(looks, int(60 / LOOK)))
    sys.stdout.write(f"{'memory by minute, MiB':32} {' '.join(by_minute)}\n")
    for fault in faults[:50]:
        sys.stdout.write(f"FAULT {fault}\n")
    sys.stdout.write(f"{'faults':32} {len(faults)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.labs.soak.churn")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    arguments = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a guard that has hung up
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        return 1 if asyncio.run(soak(arguments.minutes, arguments.clients, Path(folder))) else 0


if __name__ == "__main__":
    sys.exit(main())
