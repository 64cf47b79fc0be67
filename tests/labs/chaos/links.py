"""Faults of one QEMU and of the way to it: only its own VM may notice."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.labs.chaos.place import Place, alive, answered, broken, told, within

if TYPE_CHECKING:
    from tests.labs.chaos.place import Odd

#: connections and lines of log in LOOK seconds that are no storm
STORM, LOOK = 10, 5.0
_MIB = 1 << 20
_VERSION = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 1e999}, "package": ""}, "capabilities": []}}\r\n'
)


async def _beside(place: Place, odd: Odd, ask: str | None = None) -> str:
    """Let a second VM's QEMU be odd, and see whether the first VM's client is served on."""
    await place.qemu("a")
    place.config("ab")
    guard = await place.guard()
    client = await place.client("a")
    if ask:
        with suppress(ConnectionError):
            other = await place.client("b")
            other.send({"execute": ask, "arguments": {"uri": "tcp:192.0.2.1:1"}})
            await told(other, 0.5)
    else:
        await within(lambda: odd.connections > 0 or not guard.alive)
        await asyncio.sleep(0.5)
    alive(guard)
    await answered(client)
    odd.begin = None
    odd.answers.clear()
    odd.die()
    await place.served("b")
    return "the other VM goes on, and this one when its QEMU is well"


async def _answers(place: Place, command: str, answer: bytes) -> str:
    odd = await place.qemu("b")
    odd.answers[command] = partial(_made, answer)
    return await _beside(place, odd, "migrate")


def _made(answer: bytes, request: dict[str, Any]) -> bytes:
    return answer.replace(b"@ID@", b"%d" % request["id"])


async def error_beyond_ascii(place: Place) -> str:
    """QEMU refuses a judged request in words beyond ASCII."""
    return await _answers(place, "migrate", b'{"id": @ID@, "error": {"class": "GenericError", "desc": "\xc3\xa9"}}\r\n')


async def reply_no_json(place: Place) -> str:
    """QEMU's reply to a judged request is no JSON."""
    return await _answers(place, "migrate", b'oops, "id": @ID@}\r\n')


async def greeting_endless(place: Place) -> str:
    """A greeting has no end."""
    odd = await place.qemu("b")

    async def begin(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(80):
            writer.write(bytes(_MIB))
            await writer.drain()

    odd.begin = begin
    return await _beside(place, odd)


async def greeting_version(place: Place) -> str:
    """A greeting has a version that is infinite."""
    odd = await place.qemu("b")

    async def begin(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_VERSION)
        await writer.drain()
        await asyncio.sleep(0.2)

    odd.begin = begin
    return await _beside(place, odd)


async def schema_nested(place: Place) -> str:
    """A schema has 2,000 variants in variants."""
    odd = await place.qemu("b")
    odd.schema = [
        {"name": f"{i}", "meta-type": "object", "members": [], "variants": [{"case": "a", "type": f"{i + 1}"}]}
        for i in range(2000)
    ]
    odd.schema.append({"name": "migrate", "meta-type": "command", "arg-type": "0"})
    return await _beside(place, odd, "migrate")


async def _odd_message(place: Place, message: bytes) -> str:
    odd = await place.qemu()
    reply = b'{"return": {}, "id": @ID@}\r\n'
    odd.answers["query-name"] = partial(_made, message + reply)
    place.config()
    guard = await place.guard()
    client = await place.client()
    client.send({"execute": "query-name", "id": "mine"})
    lines = await _until_mine(client.reader)
    alive(guard)
    return lines or broken("neither a reply nor the end of the connection")


async def _until_mine(reader: asyncio.StreamReader) -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(8.0):
            while line := await reader.readline():
                if b'"mine"' in line:
                    return "the reply comes"
            return "the connection ends"
    return ""


async def event_odd_name(place: Place) -> str:
    """An event with an object for its name comes just before a reply."""
    return await _odd_message(place, b'{"event": {"a": 1}, "data": {}}\r\n')


async def event_odd_data(place: Place) -> str:
    """An event whose data is a list comes just before a reply."""
    return await _odd_message(place, b'{"event": "MIGRATION", "data": [1]}\r\n')


async def reply_long_id(place: Place) -> str:
    """A reply with an id of 5,000 digits comes just before another."""
    return await _odd_message(place, b'{"id": ' + b"1" * 5000 + b', "error": {}}\r\n')


async def accepts_and_closes(place: Place) -> str:
    """QEMU's socket accepts and closes."""
    odd = await place.qemu()
    place.config()
    guard = await place.guard()
    await place.served()

    async def begin(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    odd.begin = begin
    odd.die()
    await asyncio.sleep(1.0)
    connections, lines = odd.connections, guard.text.count("\n")
    await asyncio.sleep(LOOK)
    connections, lines = odd.connections - connections, guard.text.count("\n") - lines
    odd.begin = None
    await place.served()
    seen = f"{connections} connections and {lines} lines of log in {LOOK:g} s"
    return seen if max(connections, lines) <= STORM else broken(seen)


async def no_descriptor_for_link(place: Place) -> str:
    """Clients that wait for QEMU have used up the table of descriptors when QEMU comes."""
    odd = await place.qemu()
    place.config()
    guard = await place.guard(limits={resource.RLIMIT_NOFILE: 48})
    await place.served()
    await odd.stop()
    await within(lambda: "link=down" in guard.text)
    waiting = []
    for _ in range(80):
        with suppress(OSError):
            waiting.append(place.lazy())
    await asyncio.sleep(0.5)
    await odd.start()
    up = await within(lambda: guard.text.count("link=up") > 1 or not guard.alive, 15.0)
    alive(guard)
    for sock in waiting:
        sock.close()
    await place.served()
    return "QEMU is reached, and clients are served when others have left" if up else broken("QEMU is not reached")


async def reset(place: Place) -> str:
    """QEMU's connection is reset in the middle of a reply."""
    odd = await place.qemu()

    def reset_it(_: dict[str, Any]) -> bytes:
        assert odd.transport is not None
        odd.transport.write(b'{"return": {"na')
        odd.transport.abort()
        return b""

    odd.answers["query-name"] = reset_it
    place.config()
    guard = await place.guard()
    client = await place.client()
    client.send({"execute": "query-name", "id": "mine"})
    if await told(client, 8.0) != [b""]:
        broken("its client is not closed")
    alive(guard)
    await place.served()
    return "its client is closed, the next is served"


async def passed_qemu_ends(place: Place) -> str:
    """A QEMU that was passed as a descriptor ends."""
    await place.qemu("a")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        extra = f'[[vm]]\nname = "f"\nqemu = "fd:{theirs.fileno()}"\nlisten = "{place.folder}/f.sock"\n'
        place.config("a", extra=extra)
        guard = await place.guard(pass_fds=[theirs.fileno()])
        client = await place.client("a")
    await asyncio.sleep(1.0)
    alive(guard)
    await answered(client)
    return "the other VM goes on"
