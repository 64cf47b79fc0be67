"""Faults of clients, and of those who come to the admin interface."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.labs.chaos.place import Place, alive, answered, broken, told, within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.process import Process

#: clients of one VM at once, as it is by default; silent connections to the admin interface
CLIENTS, SILENT = 1024, 512
#: seconds until the admin interface has a place again; its deadline for a first request is shorter
ADMIN = 45.0
#: seconds that a client of another VM may wait beside a flood: a quarter is what it takes, a fault takes many
FLOODED = 4.0
#: lines of log that sixty malformed requests may leave
LINES = 20


async def two_reloads(place: Place) -> str:
    """Two reloads move a VM to other QEMUs while a reply is waited for."""
    fakes = [await place.qemu(name) for name in "abc"]

    def config(name: str) -> None:
        place.write(f'[[vm]]\nname = "v"\nqemu = "{place.folder}/{name}.qemu"\nlisten = "{place.at("v")}"\n')

    config("a")
    guard = await place.guard()
    client = await place.client("v")
    fakes[0].hold = {"query-name"}
    client.send({"execute": "query-name", "id": 1})
    await fakes[0].until("query-name")
    for count, name in enumerate("bc", 1):
        config(name)
        guard.send(signal.SIGHUP)
        await within(lambda count=count: guard.text.count("reloaded") >= count)  # type: ignore[misc]
        await asyncio.sleep(0.2)
    lines = await told(client, 15.0)
    alive(guard)
    await place.served("v")
    free = fakes[0].transport is None or fakes[0].transport.is_closing()
    return "its client is closed, the new QEMU serves" if lines and free else broken(f"{lines}, QEMU is free: {free}")


async def dead_clients(place: Place) -> str:
    """As many clients as may be come while there is no QEMU, and leave."""
    fake = await place.qemu()
    place.config()
    guard = await place.guard()
    await place.served()
    await fake.stop()
    await within(lambda: "link=down" in guard.text)
    for _ in range(CLIENTS + 10):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1.0)
            sock.connect(str(place.at()))
    await asyncio.sleep(1.0)
    await fake.start()
    waited = await place.served()
    return f"the next client is served after {waited:.1f} s"


async def junk(place: Place) -> str:
    """64 KiB of junk at once, of four kinds, beside a client of another VM."""
    await place.qemu("a")
    await place.qemu("b")
    place.config("ab")
    await place.guard()
    other, loop = await place.client("b"), asyncio.get_running_loop()
    worst = 0.0
    for unit in (b"\0", b"{}", b"]", b"[],"):
        client = await place.client("a")
        client.raw((unit * (64 << 10))[: 64 << 10])
        end = loop.time() + 1.0
        reading = asyncio.get_running_loop().time
        while reading() < end:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.reader.read(1 << 20)
            worst = max(worst, await answered(other))
    return f"waited {worst:.2f} s at most" if worst < FLOODED else broken(f"waited {worst:.1f} s")


async def descriptors(place: Place) -> str:
    """One process passes as many descriptors as it can to a guard with few, and another VM's QEMU comes back."""
    await place.qemu("a")
    other = await place.qemu("b")
    place.config("ab")
    guard = await place.guard(limits={resource.RLIMIT_NOFILE: 512})
    client = await place.client("b")
    await place.served("a")
    number = os.open(os.devnull, os.O_RDONLY)
    senders = []
    for _ in range(20):
        with suppress(OSError):
            senders.append(sock := place.lazy("a"))
            sock.setblocking(False)
            socket.send_fds(sock, [b"{"], [number] * 253)
    os.close(number)
    await asyncio.sleep(1.0)
    await answered(client)
    other.die()
    await place.served("b")
    alive(guard)
    for sock in senders:
        sock.close()
    await place.served("a")
    few = await within(lambda: guard.descriptors < 64)
    return "the other VM is served, all are closed" if few else broken(f"{guard.descriptors} descriptors remain")


async def _admin(place: Place) -> tuple[Process, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = place.folder / "token"
    token.write_text("0123456789abcdef" * 2)
    token.chmod(0o600)
    await place.qemu()
    place.config(extra=f'[admin]\nlisten = "tcp:127.0.0.1:{port}"\ntoken_file = "{token}"\n')
    guard = await place.guard()
    await place.served()
    return guard, port


async def _http(port: int, request: bytes) -> bytes:
    """Return the beginning of an answer; empty where there is none."""
    answer = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(3.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await reader.read(100)
    with suppress(UnboundLocalError):
        writer.close()
    return answer


_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def admin_silent(place: Place) -> str:
    """512 connections to the admin interface say nothing."""
    guard, port = await _admin(place)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5.0) for _ in range(SILENT)]
    loop = asyncio.get_running_loop()
    begun, answer = loop.time(), b""
    while b" 200 " not in answer and loop.time() < begun + ADMIN:
        answer = await _http(port, _HEALTH)
    for sock in silent:
        sock.close()
    alive(guard)
    took = loop.time() - begun
    return f"/healthz answers after {took:.1f} s" if b" 200 " in answer else broken(f"/healthz: {answer!r}")


async def admin_malformed(place: Place) -> str:
    """Sixty requests to the admin interface are no HTTP."""
    guard, port = await _admin(place)
    before = guard.text.count("\n")
    bad = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[::1\r\n\r\n"
    for request in (b"junk junk\r\n\r\n", b"\x16\x03\x01\r\n\r\n", bad) * 20:
        answer = await _http(port, request)
        if b" 500 " in answer:
            broken(f"{request!r} is answered {answer[:40]!r}")
    lines = guard.text.count("\n") - before
    seen = f"{lines} lines of log"
    return seen if lines <= LINES and not guard.faults() else broken(f"{seen}: {guard.faults()[:1]}")


async def socket_removed(place: Place) -> str:
    """Somebody removes the socket's file."""
    await place.qemu()
    place.config()
    guard = await place.guard()
    await place.served()
    place.at().unlink()
    await asyncio.sleep(0.2)
    guard.send(signal.SIGHUP)
    await place.served()
    return "it listens anew"


async def admin_socket_removed(place: Place) -> str:
    """Somebody removes the admin socket's file."""
    await place.qemu()
    path: Path = place.folder / "admin"
    place.config(extra=f'[admin]\nlisten = "{path}"\n')
    guard = await place.guard()
    await place.served()
    path.unlink()
    guard.send(signal.SIGHUP)
    return "it listens anew" if await within(path.exists, 15.0) else broken("nobody listens any more")
