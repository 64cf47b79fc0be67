"""Faults of the process: signals, memory, limits, kill -9, and moments at which they come."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.labs.chaos.place import Place, alive, answered, broken, told, within
from tests.support.guarding import assert_refused, capabilities

if TYPE_CHECKING:
    from tests.support.process import Process

#: MiB of addresses that a guard has left, where memory is short
SPARE = 24
#: moments after the start, in seconds, at which signals come: imports, sockets, takeover, service
MOMENTS = (0.05, 0.15, 0.2, 0.25, 0.3, 0.4)
#: what a guard says when clients can connect
READY = " ready: "
_MIB = 1 << 20


async def signals(place: Place) -> str:
    """Signals that mean something, and those that mean nothing, come at random moments."""
    await place.qemu()
    place.config(extra=f'[log]\naudit = "{place.folder}/audit"\ntraffic = "{place.folder}/traffic"\n')
    guard = await place.guard()
    client, random = await place.client(), Random(1)
    kinds = (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT)
    for _ in range(60):
        guard.send(random.choice(kinds))
        await asyncio.sleep(random.random() * 0.03)
        await answered(client)
    alive(guard)
    if guard.faults():
        broken(guard.faults()[0])
    code = await guard.end()
    return "clients are served, SIGTERM ends it" if code == 0 else broken(f"exit code {code}")


async def ended_early(place: Place) -> str:
    """SIGTERM comes at some moment of the start."""
    await place.qemu()
    place.config()
    for moment in MOMENTS:
        guard = await place.guard()
        await asyncio.sleep(moment)
        code = await guard.end()
        if code not in (0, -signal.SIGTERM) or guard.faults():
            broken(f"after {moment} s: exit code {code}, {guard.faults()[:1]}")
        if code == 0 and place.at().exists():
            broken(f"after {moment} s its socket is left")
    return "it ends, and leaves nothing"


async def stopped_while_qemu_ends(place: Place) -> str:
    """The guard is stopped while a client asks and QEMU says SHUTDOWN and ends."""
    fake = await place.qemu()
    place.config()
    guard = await place.guard()
    client = await place.client()
    guard.send(signal.SIGSTOP)
    client.send({"execute": "query-status", "id": "mine"})
    fake.emit("SHUTDOWN", guest=False)
    await asyncio.sleep(0.1)
    await fake.stop()
    guard.send(signal.SIGCONT)
    async with asyncio.timeout(10.0):
        heard = await client.reader.read()
    alive(guard)
    return "its client hears SHUTDOWN" if b"SHUTDOWN" in heard else broken(f"its client heard {heard!r}")


async def memory_short(place: Place) -> str:
    """Memory is short while large requests come."""
    fake = await place.qemu()
    place.config()
    guard = await place.guard()
    await place.served()
    size = int(Path(f"/proc/{guard.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + SPARE * _MIB
    resource.prlimit(guard.process.pid, resource.RLIMIT_AS, (limit, limit))
    clients = [await place.client() for _ in range(6)]
    for client in clients:
        client.send({"execute": "query-name", "arguments": {"x": "x" * 3_900_000}, "id": "mine"})
    for client in clients:
        await told(client, 2.0)
        client.writer.close()
    sizes = {len(r["arguments"]["x"]) for r in fake.seen if r.get("execute") == "query-name" and "arguments" in r}
    alive(guard)
    if sizes - {3_900_000}:
        broken(f"requests with holes reached QEMU: {sizes}")
    resource.prlimit(guard.process.pid, resource.RLIMIT_AS, (limit, limit))
    await place.served()
    return "no request has a hole, the next client is served"


async def file_size(place: Place) -> str:
    """Audit and traffic may not grow any more."""
    fake = await place.qemu()
    fake.devices["gpu0"] = "vfio-pci"
    place.config(extra=f'[log]\naudit = "{place.folder}/audit"\ntraffic = "{place.folder}/traffic"\n')
    guard = await place.guard(limits={resource.RLIMIT_FSIZE: 16 << 10})
    client = await place.client()
    for _ in range(60):
        assert_refused(await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
    alive(guard)
    code = await guard.end()
    return "requests are judged, SIGTERM ends it" if code == 0 else broken(f"exit code {code}")


async def takeover_killed(place: Place) -> str:
    """A takeover is killed at some moment of its start; the next one takes over and ends."""
    fake = await place.qemu()
    path = fake.path
    path.chmod(0o660)
    for moment in MOMENTS:
        guard = await place.guard("run", "--takeover", str(path))
        await asyncio.sleep(moment)
        await guard.end(signal.SIGKILL)
        before = guard.text.count(READY)
        guard = await place.guard("run", "--takeover", str(path))
        await within(lambda guard=guard, n=before: guard.text.count(READY) > n or not guard.alive)  # type: ignore[misc]
        alive(guard)
        code = await guard.end()
        mode = stat.S_IMODE(path.stat().st_mode)
        if code != 0 or mode != 0o660:
            broken(f"killed after {moment} s: exit code {code}, mode {mode:o}")
    reader, writer = await asyncio.open_unix_connection(path)
    greeting = await reader.readline()
    writer.close()
    return "QEMU's socket is back, with its mode" if b"QMP" in greeting else broken("nobody listens at QEMU's socket")


async def exec_ended_early(place: Place) -> str:
    """SIGTERM comes while `exec` starts QEMU."""
    program, number = place.folder / "qemu", place.folder / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {number}.new; mv {number}.new {number}\nexec sleep 300\n")
    program.chmod(0o755)
    for moment in MOMENTS:
        number.unlink(missing_ok=True)
        guard = await place.guard("exec", "--listen", str(place.at()), "--", str(program))
        await asyncio.sleep(moment)
        await guard.end(seconds=20.0)
        await asyncio.sleep(0.1)
        if left := _running(number):
            os.kill(left, signal.SIGKILL)
            broken(f"after {moment} s: QEMU runs on")
    return "neither runs on"


def _running(number: Path) -> int:
    """Return a process that runs, by the file with its number; 0 if it does not."""
    with suppress(OSError, ValueError):
        process = int(number.read_text())
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            return process
    return 0


async def descriptors_short(place: Place) -> str:
    """Clients come until there is no descriptor left."""
    await place.qemu()
    place.config()
    guard = await place.guard(limits={resource.RLIMIT_NOFILE: 64})
    client = await place.client()
    crowd = []
    for _ in range(100):
        with suppress(OSError):
            crowd.append(place.lazy())
    await asyncio.sleep(0.5)
    await answered(client)
    lines = guard.text.count("\n")
    await asyncio.sleep(1.0)
    storm = guard.text.count("\n") - lines
    for sock in crowd:
        sock.close()
    await place.served()
    alive(guard)
    return "who is there is served, and others later" if storm < 20 else broken(f"{storm} lines of log in a second")


async def killed_between_requests(place: Place) -> str:
    """The guard is killed while a judged request is under way, and started again."""
    fake = await place.qemu()
    fake.devices["gpu0"] = "vfio-pci"
    place.config()
    guard = await place.guard()
    client = await place.client()
    fake.hold = {"query-migrate-capabilities"}
    client.send({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)})
    await fake.until("query-migrate-capabilities")
    await guard.end(signal.SIGKILL)
    fake.let_go()
    await _again(place)
    if "migrate-set-capabilities" in fake.commands():
        broken("the request reached QEMU without a verdict")
    return "nothing reached QEMU, the next guard serves"


async def _again(place: Place) -> Process:
    guard = await place.guard()
    await place.served()
    return guard
