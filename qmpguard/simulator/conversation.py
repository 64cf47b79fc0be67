"""One client's connection to a simulated QEMU: greeting, negotiation, requests in their order, and QEMU's errors.

The requests are split and checked by `qmpguard.wire`, which does it as QEMU does.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

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
    from collections.abc import AsyncGenerator

    from qmpguard.recording.lines import Members

#: bytes that are read at once
_CHUNK: Final = 1 << 16
#: bytes of a message's tokens, as at QEMU (qobject/json-streamer.c: MAX_TOKEN_SIZE)
_MAX_SIZE: Final = 64 << 20
#: the first version that skips the rest of a message that is over a limit
_SKIPS: Final = (11, 1)

#: a message as it came
Message: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that QEMU would execute: the message as it came, and read."""

    message: Message
    request: Request


class QmpConversation:
    """A client's connection. ``pretty``: as of a monitor with ``pretty=on``."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: str, package: str, *, pretty: bool
    ) -> None:
        self.is_negotiated = False
        self.writer = writer
        self.reader = reader
        self._numbers = [int(part) for part in version.split(".")]
        self._package = package
        self._pretty = pretty
        self._oob = False

    def greet(self) -> None:
        """Send the greeting."""
        major, minor, micro = self._numbers
        version: Members = {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": self._package}
        self.send(encode({"QMP": {"version": version, "capabilities": ["oob"]}}) + EOL)

    async def asked(self) -> AsyncGenerator[Asked]:
        """Yield each valid request, until the client or this side closes. What is not valid gets QEMU's error."""
        framer = Framer(max_size=_MAX_SIZE, skips=tuple(self._numbers[:2]) >= _SKIPS)
        with suppress(ConnectionError):
            while data := await self.reader.read(_CHUNK):
                framer.feed(data)
                while framer.busy and not self.writer.is_closing():
                    item = framer.pull()
                    if item is None:
                        await asyncio.sleep(0)  # a long message takes its time, and others wait
                    elif isinstance(item, Malformed):
                        self.send(error_reply(item.desc, None))
                    elif (asked := self._read(item.value)) is not None:
                        yield asked

    def negotiate(self, request: Request) -> bytes:
        """Return the reply to a request that is no command of the machine, or comes too early, as QEMU does."""
        if request.command != "qmp_capabilities":
            return error_reply(NOT_NEGOTIATED, request.id, kind=COMMAND_NOT_FOUND)
        if self.is_negotiated:
            text = "Capabilities negotiation is already complete, command ignored"
            return error_reply(text, request.id, kind=COMMAND_NOT_FOUND)
        enabled = read_enable(request.arguments, frozenset({"oob"}))
        if isinstance(enabled, str):
            return error_reply(enabled, request.id)
        self.is_negotiated, self._oob = True, "oob" in enabled
        return success_reply({}, request.id)

    def send(self, message: bytes) -> None:
        """Send a whole message."""
        if self._pretty:
            message = json.dumps(json.loads(message), indent=4).replace("\n", "\r\n").encode() + EOL
        self.send_bytes(message)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are; after the end of the connection nothing is sent. As in QEMU there is no limit."""
        if not self.writer.is_closing():
            self.writer.write(data)

    def send_event(self, name: str, data: Members) -> None:
        """Send an event, as QEMU does once the client has negotiated."""
        seconds, micro = divmod(int(time.time() * 1_000_000), 1_000_000)
        stamp: Members = {"seconds": seconds, "microseconds": micro}
        if self.is_negotiated:
            self.send(encode({"timestamp": stamp, "event": name, **({"data": data} if data else {})}) + EOL)

    def close(self) -> None:
        """Close the connection, as a QEMU that ends does. It is over at once, also where its client does not read."""
        self.writer.close()
        self.reader.feed_eof()

    def _read(self, value: Any) -> Asked | None:
        request = read_request(value, oob=self._oob)
        if isinstance(request, Request):
            return Asked(value, request)
        assert isinstance(request, BadRequest)
        self.send(error_reply(request.desc, request.id, kind=GENERIC_ERROR))
        return None
