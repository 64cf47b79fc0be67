"""A QEMU that plays pranks, at its own socket or dialling the guard; and is well in between."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.labs.hostile.pranks import BEFORE, GREETS, ID, TRAP, Prank
from tests.support.fakes.messages import Messages
from tests.support.fakes.qemu import Request
from tests.support.fakes.sturdy import SturdyQemu, read

if TYPE_CHECKING:
    from pathlib import Path

#: seconds between two tries to dial the guard
AGAIN = 0.05
#: the largest write at once: what is cut is cut within
PIECE = 1 << 20


class HostileQemu(SturdyQemu):
    """Plays `prank` with each connection, or is well where it is None.

    ``dials``: the guard listens, not QEMU. ``strict``: the profile of its guard. ``begun`` is set when a connection
    begins with the prank, ``played`` when one is over.
    """

    def __init__(self, path: Path, *, dials: bool = False, strict: bool = False) -> None:
        super().__init__(path)
        self.prank: Prank | None = None
        self.played = asyncio.Event()
        self.devices["gpu0"] = "vfio-pci"
        self.dials = dials
        self.strict = strict
        self.begun = asyncio.Event()

    async def start(self) -> None:
        if not self.dials:
            await super().start()

    async def dial(self) -> None:
        """Dial the guard again and again, until it is cancelled; at once over where the guard dials."""
        while self.dials:
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 26)
                await self._serve(reader, writer)
            await asyncio.sleep(AGAIN)

    async def stop(self) -> None:
        if not self.dials:
            await super().stop()

    def play(self, prank: Prank) -> None:
        """Play a prank with the next connection; the one that there is closes."""
        self.prank = prank
        self.begun.clear()
        self.played.clear()
        self.die()

    def answer(self, request: Request) -> None:
        """Answer as a QEMU that is well."""
        self._answer(request)

    def cure(self) -> None:
        """Be well from the next connection on, and close the one of the prank."""
        self.prank = None
        self.die()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        prank = self.prank
        self.connections += 1
        self._writer = writer
        if prank is not None:
            self.begun.set()
        try:
            with suppress(ConnectionError, TimeoutError, ValueError):
                await _Connection(self, prank, reader, writer).run()
        finally:
            if prank is not None and prank is self.prank:
                self.played.set()
            writer.close()


class _Connection:
    """One connection: its prank, and how much of what it may send is left."""

    def __init__(
        self, qemu: HostileQemu, prank: Prank | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._qemu = qemu
        self._prank = prank or Prank("well")
        self._reader = reader
        self._writer = writer
        self._left = self._prank.cut
        self._before = b"0"

    async def run(self) -> None:
        if self._prank.late:
            await asyncio.sleep(self._prank.late)
        await self._send(self._prank.greeting)
        if self._prank.greeting != GREETS and self._prank.leaves:
            await self._linger()
            return
        messages = Messages(self._reader)
        while self._left != 0 and (message := await messages.next()):
            if await self._answer(read(message)):
                return

    async def _linger(self) -> None:
        """Give the guard a moment with an odd greeting."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                await self._reader.read(1)

    async def _answer(self, request: Request) -> bool:
        """Answer; return whether this was the last answer."""
        command = str(request.get("execute") or request.get("exec-oob"))
        number = str(request.get("id", "")).encode()
        answer = self._prank.replies.get(command)
        if answer is None:
            self._qemu.answer(request) if self._left is None else await self._send(_well(number))
        else:
            await self._send(answer.replace(ID, number).replace(BEFORE, self._before))
        self._before = number
        return self._prank.leaves and (command == TRAP or command in self._prank.replies)

    async def _send(self, data: bytes) -> None:
        if self._left is not None:
            data, self._left = data[: self._left], self._left - len(data[: self._left])
        for start in range(0, len(data), PIECE):
            if self._writer.is_closing():
                raise ConnectionResetError
            self._writer.write(data[start : start + PIECE])
            await self._writer.drain()
        if self._left == 0 and self._prank.deaf:
            self._writer.transport.abort()


def _well(number: bytes) -> bytes:
    return b'{"return": {}, "id": %b}\r\n' % number
