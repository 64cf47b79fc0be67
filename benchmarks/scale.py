"""What watching many VMs costs the others: `python -m benchmarks.scale`, the admin interface of 1,000 VMs.

The VMs have no QEMU, but journals that are full: 1,000 decisions and 1,000 events each. A process of its own asks for
every endpoint, and opens streams. Printed is the longest turn of the event loop meanwhile, which is what a VM's client
would have waited for: of wall time, in which other processes have their share, and of this thread's CPU time. Then
the memory that a stream takes whose client asks for all that is kept and reads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.address import UnixAddress
from qmpguard.admin.server import Admin
from qmpguard.policy.policy import Policy
from qmpguard.policy.verdict import Verdict
from qmpguard.proxy.vm import Vm
from qmpguard.record import MAX_ENTRIES, Decision, Event, Peer, Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATHS = ("/healthz", "/readyz", "/metrics", "/api/v1/vms", "/api/v1/vms/vm0", "/api/v1/decisions", "/api/v1/rules",
         "/openapi.json", "/", "/api/v1/stream", "/api/v1/stream?since=0&kinds=decision,drift,link,override",
         "/api/v1/stream?since=0")  # fmt: skip
#: bytes of a stream that are read, at most: the whole past of 1,000 VMs is a GiB
ENOUGH = 100 << 20
#: streams that read nothing, and bytes that a stream may have in the kernel, which are not ours
IDLERS = 100
DATA = json.dumps({"device": "virtio0", "operation": "read", "action": "report", "reason": "Input/output error",
                   "qom-path": "/machine/peripheral/virtio0"})  # fmt: skip


class Turns:
    """Measures every turn of the event loop: it is ready to run in each of them."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.count = 0

    async def run(self) -> None:
        """Measure until cancelled."""
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, used = time.perf_counter(), time.thread_time()
            self.wall, self.cpu = max(self.wall, now - wall), max(self.cpu, used - cpu)
            self.count += 1
            wall, cpu = now, used


def fleet(count: int, run: Run) -> list[Vm]:
    """Return VMs with full journals."""
    vms = [Vm(f"vm{n}", UnixAddress(f"/nowhere/{n}"), Policy(), run=run) for n in range(count)]
    event, decision = Event("BLOCK_IO_ERROR", DATA), Decision("x", Peer(1), "migrate", Verdict(), "11.1")
    for _ in range(MAX_ENTRIES):
        for vm in vms:
            vm.journal.add(1.0, event)
            vm.journal.add(1.0, decision)
    return vms


@asynccontextmanager
async def serving(vms: list[Vm], run: Run, path: Path) -> AsyncIterator[None]:
    """Serve the admin interface of some VMs."""
    admin = Admin(UnixAddress(str(path)), lambda: vms, run)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(admin.run())
        await admin.opened.wait()
        yield
        task.cancel()


def ask(admin: str, path: str) -> None:
    """Read an answer, and print how long it took and how large it was; run in a process of its own."""
    began, size, took = time.perf_counter(), 0, 0.0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(admin)
        sock.settimeout(1.5)  # a stream goes on for ever
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        with suppress(TimeoutError):
            while size < ENOUGH and (piece := sock.recv(1 << 20)):
                size += len(piece)
                took = time.perf_counter() - began
    print(took, size)


async def measure(admin: Path, path: str) -> None:
    """Measure the turns while one endpoint is asked for by another process."""
    turns = Turns()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(turns.run())
        asker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.scale", "--ask", str(admin), path, stdout=asyncio.subprocess.PIPE
        )
        assert asker.stdout is not None
        out = await asker.stdout.read()
        await asker.wait()
        task.cancel()
    took, size = out.split()
    print(
        f"  {path:62} {turns.wall * 1e3:7.1f} {turns.cpu * 1e3:7.1f} {float(took):8.2f} {int(size) / (1 << 20):8.2f}",
        flush=True,
    )


async def renamed(admin: Path, vms: list[Vm]) -> None:
    """Measure the turns, and count the streams that are left, when a VM is added before open streams."""
    streams = [await _stream(admin, "") for _ in range(IDLERS)]
    await asyncio.sleep(2)
    turns = Turns()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(turns.run())
        vms.append(Vm("another", UnixAddress("/nowhere/more"), Policy(), run=vms[0].journal.run))
        await asyncio.sleep(5)
        task.cancel()
    alive = sum(not reader.at_eof() for reader, _ in streams)
    print(f"another VM before {IDLERS} streams: longest turn {turns.wall * 1e3:.1f} ms ({turns.cpu * 1e3:.1f} of CPU);"
          f" {alive} of {IDLERS} streams go on")  # fmt: skip
    for _, writer in streams:
        writer.close()


async def memory(admin: Path) -> None:
    """Measure the memory of streams that ask for everything and read nothing."""
    gc.collect()
    before = _resident()
    streams = [await _stream(admin, "?since=0") for _ in range(IDLERS)]
    await asyncio.sleep(5)
    gc.collect()
    grown = (_resident() - before) / IDLERS
    print(f"memory of a stream that asks for all and reads nothing: {grown / 1024:.0f} KiB, its client's end included")
    for _, writer in streams:
        writer.close()


async def _stream(admin: Path, query: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(admin, limit=1024)
    writer.write(f"GET /api/v1/stream{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return reader, writer


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def run(count: int) -> None:
    """Measure all."""
    began = Run()
    vms = fleet(count, began)
    gc.collect()
    gc.freeze()  # as the guard does with what it has at its start
    with tempfile.TemporaryDirectory(prefix="qmpguard-scale-") as folder:
        admin = Path(folder) / "admin.sock"
        async with serving(vms, began, admin):
            print(
                f"{count} VMs with full journals; the longest turn in ms of wall and CPU time; the answer in s and MiB"
            )
            await measure(admin, "/healthz")  # the first one imports
            for path in PATHS:
                await measure(admin, path)
            await renamed(admin, vms)
            await memory(admin)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Measure what many VMs cost.")
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--ask", nargs=2, metavar=("ADMIN", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        ask(*arguments.ask)
    else:
        asyncio.run(run(arguments.vms))


if __name__ == "__main__":
    main()
