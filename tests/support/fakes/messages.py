"""A fake QEMU's input: whole objects, where QEMU too would take them. No line's end has to follow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_CHUNK = 1 << 18
_OUTSIDE = re.compile(rb'["{}\[\]]')  # what matters outside of a string
_INSIDE = re.compile(rb'["\\]')


class Messages:
    """The messages that arrive at a reader. The time is linear in the bytes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._data = bytearray()
        self._position = 0  # all before it was looked at
        self._depth = 0
        self._in_string = False

    async def next(self) -> bytes:
        """Return the next object; empty at the end of the input, also where that has cut an object off."""
        while not (end := self._scan()):
            chunk = await self._reader.read(_CHUNK)
            if not chunk:
                return b""
            self._data += chunk
        message = bytes(self._data[:end])
        del self._data[:end]
        self._position = 0
        return message.strip()

    def _scan(self) -> int:
        """Return where the first object ends; 0 where its end has not arrived."""
        while (found := (_INSIDE if self._in_string else _OUTSIDE).search(self._data, self._position)) is not None:
            token = found[0]
            if token == b"\\" and found.end() == len(self._data):
                self._position = found.start()  # the escaped byte has not arrived
                return 0
            self._position = found.end() + (token == b"\\")
            if token == b'"':
                self._in_string = not self._in_string
            elif token != b"\\":
                self._depth += 1 if token in b"{[" else -1
                if not self._depth:
                    return self._position
        self._position = len(self._data)
        return 0
