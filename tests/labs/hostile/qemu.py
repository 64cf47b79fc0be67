"""A QEMU that plays pranks, at its own socket or dialling the guard; and is well in between."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from tests.labs.hostile.pranks import BEFORE, GREETS, ID, TRAP, Prank
from tests.support.fakes.qemu import FakeQemu

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.simulator.conversation import Asked, QmpConversation

#: seconds between two tries to dial the guard
AGAIN = 0.05
#: the largest write at once: what is cut is cut within
PIECE = 1 << 20


class HostileQemu(FakeQemu):
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
                await self.converse(reader, writer)
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

    def cure(self) -> None:
        """Be well from the next connection on, and close the one of the prank."""
        self.prank = None
        self.die()

    async def serve(self, conversation: QmpConversation) -> None:
        prank = self.prank
        if prank is not None:
            self.begun.set()
        try:
            with suppress(ConnectionError, TimeoutError, ValueError):
                await _Connection(self, prank, conversation).run()
        finally:
            if prank is not None and prank is self.prank:
                self.played.set()


class _Connection:
    """One connection: its prank, and how much of what it may send is left."""

    def __init__(self, qemu: HostileQemu, prank: Prank | None, conversation: QmpConversation) -> None:
        self._qemu = qemu
        self._prank = prank or Prank("well")
        self._conversation = conversation
        self._writer = conversation.writer
        self._left = self._prank.cut
        self._before = b"0"

    async def run(self) -> None:
        if self._prank.late:
            await asyncio.sleep(self._prank.late)
        await self._send(self._prank.greeting)
        if self._prank.greeting != GREETS and self._prank.leaves:
            await self._linger()
            return
        async with aclosing(self._conversation.asked()) as requests:
            async for asked in requests:
                if await self._answer(asked) or self._left == 0:
                    return

    async def _linger(self) -> None:
        """Give the guard a moment with an odd greeting."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                await self._conversation.reader.read(1)

    async def _answer(self, asked: Asked) -> bool:
        """Answer; return whether this was the last answer."""
        command = asked.request.command
        number = asked.request.id or b""
        answer = self._prank.replies.get(command)
        if command == "qmp_capabilities" and (answer is not None or self._left is not None):
            self._conversation.negotiate(asked.request)  # whatever the guard is told of it
        if answer is None:
            self._qemu.answer(asked) if self._left is None else await self._send(_well(number))
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
