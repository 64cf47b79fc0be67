"""What watching costs: `python -m benchmarks.shows` measures the admin interface, and prints what it has measured.

First a QEMU that is stopped (SIGSTOP): how long every endpoint takes, and how long until /readyz tells. Then the round
trip of `query-status` with and without 200 open streams and a scraper, in turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from benchmarks import rig
from benchmarks.client import Connection, request
from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu

PATHS = ("/healthz", "/readyz", "/metrics", "/api/v1/vms", "/api/v1/vms/vm", "/api/v1/decisions", "/api/v1/rules",
         "/openapi.json", "/")  # fmt: skip
#: open streams, scrapes per second while the round trip is measured
STREAMS, RATE = 200, 100
#: round trips in one measurement, and seconds of one turn: short ones, since a shared machine changes by the minute
TRIPS, TURN = 20, 4.0
STATUS = request("query-status")


@asynccontextmanager
async def visiting(admin: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Be an HTTP client of the admin interface."""
    connector = aiohttp.UnixConnector(str(admin), limit=0)
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
        yield http


async def latency(http: aiohttp.ClientSession, path: str) -> float:
    """Return the seconds of one answer."""
    start = time.perf_counter()
    async with http.get(path) as response:
        await response.read()
    return time.perf_counter() - start


async def stopped(qemu: Qemu, admin: Path, rounds: int) -> None:
    """Stop QEMU, and measure every endpoint until /readyz has noticed, and after it."""
    async with visiting(admin) as http:
        qemu.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        worst: dict[str, list[float]] = {path: [] for path in PATHS}
        noticed = 0.0
        while not noticed or min(map(len, worst.values())) < rounds:
            for path in PATHS:
                worst[path].append(await latency(http, path))
            async with http.get("/readyz") as response:
                if response.status == 503 and not noticed:
                    noticed = time.monotonic() - begun
                    print(f"after {noticed:.1f} s /readyz says: {(await response.json())['reasons']}")
            await asyncio.sleep(0.05)
        qemu.process.send_signal(signal.SIGCONT)
    print("QEMU is stopped; milliseconds of an answer: median, 99 %, worst")
    for path, times in worst.items():
        times.sort()
        shown = (statistics.median(times), times[int(len(times) * 0.99)], times[-1])
        print(f"  {path:20} {'  '.join(f'{seconds * 1000:6.2f}' for seconds in shown)}")


async def watch(admin: Path, count: int) -> None:
    """Open the streams, scrape ``count`` times at the rate, and end; run in a process of its own."""
    async with visiting(admin) as http, asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(_drain(http)) for _ in range(STREAMS)]
        await asyncio.sleep(1)
        print("ready", flush=True)
        start = time.monotonic()
        for n in range(count):
            await asyncio.sleep(max(0.0, start + n / RATE - time.monotonic()))
            await latency(http, "/metrics")
        for stream in streams:
            stream.cancel()


async def _drain(http: aiohttp.ClientSession) -> None:
    async with http.get("/api/v1/stream") as response:
        async for _ in response.content.iter_any():
            pass


@contextmanager
def watched(admin: Path) -> Iterator[None]:
    """Be watched by a process of its own for a while."""
    count = str(int(RATE * TURN * 10))  # it is ended before
    with rig.process(sys.executable, "-m", "benchmarks.shows", "--watch", str(admin), count, ready=True):
        yield


def turn(connection: Connection) -> list[float]:
    """Measure round trips for a turn."""
    end = time.monotonic() + TURN
    times = []
    while time.monotonic() < end:
        times.append(connection.round_trips(STATUS, TRIPS))
    return times


def side_by_side(listen: Path, admin: Path, scrapes: int) -> None:
    """Measure in turns: alone, watched, alone again."""
    connection = Connection(listen)
    alone: list[list[float]] = [[], []]
    seen: list[float] = []
    for n in range(round(scrapes / RATE / TURN)):
        alone[n % 2] += turn(connection)
        with watched(admin):
            seen += turn(connection)
    connection.close()
    first, second, with_watchers = (statistics.median(times) * 1e6 for times in (*alone, seen))
    both = statistics.median(alone[0] + alone[1]) * 1e6
    print(
        f"round trip of query-status in µs, {scrapes} scrapes at {RATE}/s and {STREAMS} streams, in turns of {TURN:g} s"
    )
    print(f"  alone {first:.1f} and {second:.1f} (ratio {second / first:.3f}), watched {with_watchers:.1f}")
    print(f"  watched to alone: {with_watchers / both:.3f}")


def cost(pid: int, admin: Path) -> None:
    """Measure the guard's CPU time for watchers, while no client asks for anything."""
    before = rig.cpu_seconds(pid)
    time.sleep(TURN)
    idle = (rig.cpu_seconds(pid) - before) / TURN
    with watched(admin):
        before = rig.cpu_seconds(pid)
        time.sleep(TURN)
        busy = (rig.cpu_seconds(pid) - before) / TURN
    share = (busy - idle) * 100
    print(f"{RATE} scrapes a second and {STREAMS} open streams take {share:.1f} % of one CPU, idle {idle * 100:.2f} %")


async def run(folder: Path, scrapes: int) -> None:
    """Measure both."""
    listen, admin = folder / "guard.sock", folder / "admin.sock"
    async with Qemu(system_qemu(), folder) as qemu:
        command = (*rig.guard(qemu.monitors[0], listen), "--admin", str(admin))
        with rig.process(*command) as guard:
            await asyncio.to_thread(lambda: Connection(listen).close())
            await asyncio.to_thread(cost, guard.pid, admin)
            await stopped(qemu, admin, rounds=100)
            await asyncio.to_thread(side_by_side, listen, admin, scrapes)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shows", description="Measure what watching costs.")
    parser.add_argument("--scrapes", type=int, default=10_000)
    parser.add_argument("--watch", nargs=2, metavar=("ADMIN", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        asyncio.run(watch(Path(arguments.watch[0]), int(arguments.watch[1])))
        return
    with tempfile.TemporaryDirectory(prefix="qmpguard-shows-") as folder:
        asyncio.run(run(Path(folder), arguments.scrapes))


if __name__ == "__main__":
    main()
