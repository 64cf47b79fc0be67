"""One link to QEMU from its beginning to its end, with the guard's own session and work on it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress
from qmpguard.proxy.qemu.control import Control
from qmpguard.proxy.qemu.handover import Handover, Inheritance
from qmpguard.proxy.qemu.link import LINGER, MAX_UNSENT, Link
from qmpguard.proxy.sockets.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from qmpguard.proxy.hub import Hub
    from qmpguard.proxy.judging.drift_watch import DriftWatch
    from qmpguard.proxy.judging.gate import Gate
    from qmpguard.proxy.qemu.connections import NegotiatedConnection, QemuConnections
    from qmpguard.proxy.qemu.heartbeat import Heartbeat
    from qmpguard.tasks import Tasks

#: seconds that a link may take to come to rest, and between two looks whether it has
REST, TICK = 1.0, 0.01


class Serving:
    """Serves one connection. ``on_up`` is called with the link, once the guard's own session can ask on it."""

    def __init__(self, connection: NegotiatedConnection, hub: Hub, gate: Gate, on_up: Callable[[Link], None]) -> None:
        stream = Stream(connection.sock, hub.outbox, limit=MAX_UNSENT, descriptors=False, linger=LINGER)
        self.link = Link(stream, hub, connection.greeting, connection.number)
        self._connection = connection
        self._stream = stream
        self._hub = hub
        self._gate = gate
        self._on_up = on_up
        self._gone = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []  # the guard's own work on the link
        self.handed_over = False

    def end(self) -> None:
        """Called when the link has ended."""
        self._gone.set()

    async def run(self, tasks: Tasks, watch: DriftWatch, heartbeat: Heartbeat) -> None:
        """Serve until the link ends; ``tasks`` owns the work. Raises the exception for which it could not begin."""
        async with self._working(tasks, watch, heartbeat):
            try:
                self._on_up(self.link)
                for event in self._connection.events:
                    self._hub.on_event(event)
                self._stream.start(self.link)
                await self._gone.wait()
            except Exception as error:
                self.link.lose(_failure(error))
                raise
            finally:
                if not self.handed_over:
                    self._connection.hang_up()
                self._stream.close()

    @asynccontextmanager
    async def _working(self, tasks: Tasks, watch: DriftWatch, heartbeat: Heartbeat) -> AsyncGenerator[None]:
        """Do the guard's own work as long as the block lasts, with a session of its own."""
        control = Control(self._hub)
        self._gate.connect(self.link.greeting, control)
        on_fault = partial(_failed, self.link)  # where the work fails, the link is lost, and made anew
        own = self._own
        own.append(tasks.start("watch", watch.run(), on_fault))
        if "oob" in self.link.greeting.offered:
            own.append(tasks.start("heartbeat", heartbeat.run(control), on_fault))
        try:
            yield
        finally:
            for task in own:
                task.cancel()
            self._hub.disconnect()
            self._gate.disconnect()
            control.close()
            await asyncio.wait(own)

    async def release(self, connections: QemuConnections, *, within: bool) -> Inheritance | None:
        """Let go of the link at rest, for another to go on with; None where it is not at rest.

        ``within`` this process, a passed connection can be handed on, too. What is returned is the caller's. No client
        is served any more.
        """
        if not self._own or (isinstance(connections.address, FdAddress) and not within):
            return None
        self._hub.link = None  # so that the end of the guard's own session is no loss
        for task in self._own:
            task.cancel()
        await asyncio.wait(self._own)
        if (number := await self._number_at_rest()) is None:
            return None
        self.handed_over = True
        memory = self._gate.memory
        unseen = memory.primaries.devices, memory.netdevs.devices
        qemu = self._connection.process, memory.negotiated
        handover = Handover(self._hub.name, str(connections.address), self.link.greeting, number, *unseen, *qemu)
        return Inheritance(self._connection.sock.dup(), handover)

    async def _number_at_rest(self) -> int | None:
        """Wait until QEMU has answered every request, and read no more. Return the number of the last one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST):
                while not self.link.is_idle:  # noqa: ASYNC110 -- an event for it would cost every reply something
                    await asyncio.sleep(TICK)
        self.link.pause()
        return self.link.number


def _failed(link: Link, error: Exception) -> None:
    """Called when the guard's own work on a link has failed."""
    link.lose(_failure(error))


def _failure(error: Exception) -> str:
    return f"the guard's own work on the link failed: {error!r}"[:200]
