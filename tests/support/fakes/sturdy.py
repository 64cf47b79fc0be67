"""A fake QEMU that takes whatever a real one would: numbers of any length, and lists in lists."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress

from tests.support.fakes.messages import Messages
from tests.support.fakes.qemu import GREETING, FakeQemu, Request

_COMMAND = re.compile(rb'\{"(execute|exec-oob)":"([^"]*)"')
_ID = re.compile(rb'"id":(\d+)\}\Z')


class SturdyQemu(FakeQemu):
    """Answers every request, also those that Python's own reader of JSON gives up."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        self.send(GREETING)
        with suppress(ConnectionError):
            messages = Messages(reader)
            while message := await messages.next():
                self._answer(read(message))
                await writer.drain()
        writer.close()


def read(message: bytes) -> Request:
    """Return a request, without its arguments where they are too odd for Python."""
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        command, number = _COMMAND.match(message), _ID.search(message)
        assert command, message[:200]
        request = {command[1].decode(): command[2].decode()}
        if number:
            request["id"] = int(number[1])
        return request
    assert isinstance(request, dict)
    return request
