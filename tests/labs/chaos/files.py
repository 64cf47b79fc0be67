"""Faults of files: standard error, audit, traffic, the configuration."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from typing import TYPE_CHECKING

from tests.labs.chaos.place import Place, alive, answered, broken, within
from tests.support.guarding import assert_refused, capabilities

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guarding import Client
    from tests.support.process import Process

#: bytes of the smallest pipe that Linux makes
PIPE = 4096
#: seconds that a client may wait while the guard changes its files: a second is what it takes on a busy machine, and
#: a fault takes five or more
WAIT = 4.0
#: MiB that requests on their way into the traffic file may take
QUEUE = 200.0


def small_pipe() -> tuple[int, int]:
    """Return a pipe that is soon full."""
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE)
    return reading, writing


async def _log_much(place: Place, count: int = 60) -> None:
    """Make the guard write two lines of log for each of so many clients."""
    for _ in range(count):
        await place.served()


async def stderr_full(place: Place) -> str:
    """Nobody reads standard error."""
    await place.qemu()
    place.config()
    reading, writing = small_pipe()
    try:
        guard = await place.guard(stderr=writing)
        os.close(writing)
        await _log_much(place)
        return await _ends(guard)
    finally:
        os.close(reading)


async def _ends(guard: Process) -> str:
    """End a guard, which takes some seconds at most."""
    alive(guard)
    code = await guard.end(seconds=20.0)
    return "clients are served, SIGTERM ends it" if code == 0 else broken(f"SIGTERM: exit code {code}")


async def stderr_broken(place: Place) -> str:
    """Whoever reads standard error leaves, before the last QEMU comes and the guard says that it is ready."""
    await place.qemu("a")
    place.config("ab")
    reading, writing = os.pipe()
    guard = await place.guard(stderr=writing)
    os.close(writing)
    await place.served()
    os.close(reading)
    await place.qemu("b")
    await place.served("b")
    return await _ends(guard)


async def stderr_no_room(place: Place) -> str:
    """Standard error is on a full disk."""
    await place.qemu("a")
    place.config("ab")
    full = os.open("/dev/full", os.O_WRONLY)
    guard = await place.guard(stderr=full)
    os.close(full)
    await place.served()
    await place.qemu("b")
    await place.served("b")
    return await _ends(guard)


async def stderr_closed(place: Place) -> str:
    """There is no standard error: descriptor 2 is closed when the guard starts."""
    await place.qemu()
    config = place.config()
    words = f"exec {_python()} -m qmpguard run --config {config} 2>&-"
    guard = await place.program("/bin/sh", "-c", words)
    await place.served()
    return await _ends(guard)


def _python() -> str:
    import sys

    return sys.executable


async def config_deep(place: Place) -> str:
    """A reload meets 5,000 arrays in arrays."""
    return await _bad_config(place, "a = " + "[" * 5000)


async def config_digits(place: Place) -> str:
    """A reload meets an integer of 10,000 digits."""
    return await _bad_config(place, "a = " + "9" * 10_000 + "\n")


async def config_host(place: Place) -> str:
    """A reload meets a host that is no name."""
    return await _bad_config(place, '[[vm]]\nname = "a"\nqemu = "tcp:..:1"\nlisten = "/tmp/x/y"\n')


async def config_descriptor(place: Place) -> str:
    """A reload meets a descriptor that is none."""
    return await _bad_config(place, f'[[vm]]\nname = "a"\nqemu = "fd:{10**30}"\nlisten = "fd:7"\n')


async def _bad_config(place: Place, text: str) -> str:
    await place.qemu()
    place.config()
    guard = await place.guard()
    client = await place.client()
    place.write(text)
    guard.send(signal.SIGHUP)
    said = await within(lambda: "reload" in guard.text or not guard.alive)
    alive(guard)
    await answered(client)
    place.config()
    guard.send(signal.SIGHUP)
    await within(lambda: guard.text.count("reload") > 1)
    await place.served()
    return "failed, said so, and the next one works" if said else broken("nothing is said of the reload")


async def config_hangs(place: Place) -> str:
    """The file of the configuration cannot be read for a while."""
    await place.qemu()
    config = place.config()
    guard = await place.guard()
    client = await place.client()
    config.unlink()
    os.mkfifo(config)
    guard.send(signal.SIGHUP)
    await answered(client)
    guard.send(signal.SIGHUP)
    await answered(client)
    return await _ends(guard)


async def traffic_hangs_at_reload(place: Place) -> str:
    """A reload names a pipe as traffic file that nobody reads."""
    return await _hangs_at_reload(place, "traffic")


async def audit_hangs_at_reload(place: Place) -> str:
    """A reload names a pipe as audit that nobody reads."""
    return await _hangs_at_reload(place, "audit")


async def _hangs_at_reload(place: Place, file: str) -> str:
    await place.qemu()
    place.config()
    guard = await place.guard()
    client = await place.client()
    os.mkfifo(place.folder / file)
    place.config(extra=f'[log]\n{file} = "{place.folder}/{file}"\n')
    seen = await _waits(guard, client)
    await _ends(guard)
    return seen


async def _waits(guard: Process, client: Client) -> str:
    """Reload, and see how long a client waits meanwhile."""
    guard.send(signal.SIGHUP)
    worst = max([await answered(client) for _ in range(200)])
    alive(guard)
    return f"a client waited {worst:.2f} s" if worst < WAIT else broken(f"a client waited {worst:.1f} s")


async def traffic_memory(place: Place) -> str:
    """Large requests come faster than a traffic file is written."""
    await place.qemu()
    place.config(extra=f'[log]\ntraffic = "{place.folder}/traffic"\n')
    guard = await place.guard()
    client = await place.client()
    before = guard.memory
    for _ in range(110):
        client.send({"execute": "query-name", "arguments": {"x": "x" * (3 << 20)}})
        await client.receive()
    seen = f"330 MiB of requests took {guard.memory - before:.0f} MiB"
    return seen if guard.memory - before < QUEUE else broken(seen)


async def half_a_reload(place: Place) -> str:
    """A reload has an audit file that cannot be opened, and other settings."""
    fake = await place.qemu()
    fake.devices["gpu0"] = "vfio-pci"
    place.config()
    guard = await place.guard()
    client = await place.client()
    postcopy = capabilities(postcopy_ram=True)
    assert_refused(await client.ask("migrate-set-capabilities", postcopy), "vfio-postcopy")
    place.config(extra='[policy]\nmode = "warn"\n[log]\naudit = "/no/such/folder/audit"\n')
    guard.send(signal.SIGHUP)
    await within(lambda: "reload" in guard.text)
    reply = await client.ask("migrate-set-capabilities", postcopy)
    return "all or none: the old settings hold" if "error" in reply else broken("the mode changed, the audit did not")


async def audit_full(place: Place) -> str:
    """The audit is on a disk that becomes full: a tmpfs of 16 KiB, for whoever may mount one."""
    fake = await place.qemu()
    fake.devices["gpu0"] = "vfio-pci"
    disk = place.folder / "disk"
    disk.mkdir()
    words = ("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk))
    mount = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
    if await mount.wait():
        return "not seen: it takes root to mount a small disk"
    try:
        return await _audited(place, disk)
    finally:
        await (await asyncio.create_subprocess_exec("umount", "-l", str(disk))).wait()


async def _audited(place: Place, disk: Path) -> str:
    place.config(extra=f'[log]\naudit = "{disk}/audit"\n')
    guard = await place.guard()
    client = await place.client()
    for _ in range(100):
        assert_refused(await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
    said = await within(lambda: "cannot be written" in guard.text)
    await _ends(guard)
    return "requests are judged, the log says so" if said else broken("the log does not say that the audit is lost")
