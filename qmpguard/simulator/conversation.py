"""One client's connection to a simulated QEMU: greeting, negotiation, requests in their order, and QEMU's errors.

The requests are split and checked by `qmpguard.wire`, which does it as QEMU does.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.wire.client_messages import (
    COMMAND_NOT_FOUND,
    EOL,
    GENERIC_ERROR,
    NOT_NEGOTIATED,
    BadRequest,
    Request,
    error_reply,
    read_enable,
    read_request,
    success_reply,
)
from qmpguard.wire.framing import Framer, Malformed
from qmpguard.wire.json import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmpguard.recording.lines import Members

#: bytes that are read at once
_CHUNK = 1 << 16

#: called with each request after the negotiation
Answerer: TypeAlias = "Callable[[Request], Awaitable[None]]"


class QmpConversation:
    """A client's connection. ``answer`` is called with each request that QEMU would execute."""

    def __init__(self, writer: asyncio.StreamWriter, version: str, package: str, answer: Answerer) -> None:
        self.is_negotiated = False
        self._writer = writer
        self._numbers = [int(part) for part in version.split(".")]
        self._package = package
        self._answer = answer
        self._oob = False

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Talk until the client or this side closes."""
        major, minor, micro = self._numbers
        version: Members = {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": self._package}
        self.send(encode({"QMP": {"version": version, "capabilities": ["oob"]}}) + EOL)
        framer = Framer(skips=(major, minor) >= (11, 1))
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                framer.feed(data)
                while framer.busy and (item := framer.pull_whole()) is not None:
                    if isinstance(item, Malformed):
                        self.send(error_reply(item.desc, None))
                    else:
                        await self._take(read_request(item.value, oob=self._oob))
                await self._writer.drain()

    def send(self, data: bytes) -> None:
        """Send bytes; after the end of the connection nothing is sent."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def send_event(self, name: str, data: Members) -> None:
        """Send an event, as QEMU does once the client has negotiated."""
        seconds, micro = divmod(int(time.time() * 1_000_000), 1_000_000)
        stamp: Members = {"seconds": seconds, "microseconds": micro}
        if self.is_negotiated:
            self.send(encode({"timestamp": stamp, "event": name, **({"data": data} if data else {})}) + EOL)

    def close(self) -> None:
        """Close the connection, as a QEMU that ends does."""
        self._writer.close()

    async def _take(self, request: Request | BadRequest) -> None:
        if isinstance(request, BadRequest):
            self.send(error_reply(request.desc, request.id, kind=GENERIC_ERROR))
        elif self.is_negotiated:
            await self._answer(request)
        elif request.command != "qmp_capabilities":
            self.send(error_reply(NOT_NEGOTIATED, request.id, kind=COMMAND_NOT_FOUND))
        else:
            self._negotiate(request)

    def _negotiate(self, request: Request) -> None:
        enabled = read_enable(request.arguments, frozenset({"oob"}))
        if isinstance(enabled, str):
            self.send(error_reply(enabled, request.id))
            return
        self.is_negotiated, self._oob = True, "oob" in enabled
        self.send(success_reply({}, request.id))
