"""The connections to a simulated monitor: one is served, and others wait for their turn, as in QEMU's backlog."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.simulator.conversation import QmpConversation


class SimulatorClients:
    """The connections. ``present`` is the one that is or was served last; after its end it takes bytes and drops them.

    ``served`` is their number so far. ``ended`` is set when no more are accepted.
    """

    def __init__(self) -> None:
        self.present: QmpConversation | None = None
        self.served = 0
        self.ended = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._turn = asyncio.Lock()

    def begin(self, server: asyncio.Server) -> None:
        """Take the server that accepts them."""
        self._server = server
        self.ended.clear()

    @asynccontextmanager
    async def turn(self, writer: asyncio.StreamWriter) -> AsyncGenerator[None]:
        """Wait until no other client is served; at the end the connection is closed."""
        self._open.add(writer)
        try:
            async with self._turn:
                self.served += 1
                yield
        finally:
            self._open.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Close the connection that is served."""
        if self.present is not None:
            self.present.close()

    def end(self) -> None:
        """Accept no more connections, and close those that there are."""
        self.ended.set()
        if self._server is not None:
            self._server.close()
        self.hang_up()
        for writer in self._open:
            writer.close()

    async def gone(self) -> None:
        """Wait until the server and all connections are closed; a client that does not read is waited for no longer."""
        for writer in (*self._open, *([] if self.present is None else [self.present.writer])):
            writer.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
        await asyncio.sleep(0)
