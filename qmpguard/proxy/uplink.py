"""The links to one QEMU, one after the other, each with the guard's own work on it; the last one can be handed over."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress
from qmpguard.proxy.control import Control
from qmpguard.proxy.handover import Handover, Inheritance
from qmpguard.proxy.link import LINGER, MAX_UNSENT, Link
from qmpguard.proxy.stream import Stream
from qmpguard.proxy.upstream import negotiate, reach, whose

if TYPE_CHECKING:
    from qmpguard.address import QemuAddress
    from qmpguard.proxy.hub import Hub
    from qmpguard.tasks import Tasks
    from qmpguard.wire.replies import Greeting, QemuEvent

log = logging.getLogger(__name__)


class Uplink:
    """Keeps a link from a hub to its QEMU: reached or inherited, served until it ends, and then the next."""

    def __init__(self, hub: Hub, address: QemuAddress) -> None:
        self._hub = hub
        self._address = address
        self._qemu: tuple[int, ...] | None = None  # which one the link is with
        self._gone = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []  # the guard's own work on the link
        self._sock: socket.socket | None = None
        self._inheritance: Inheritance | None = None

    async def run(self, tasks: Tasks) -> None:
        """Keep a link until cancelled; ``tasks`` owns the work on it."""
        async with aclosing(reach(self._address)) as sockets:
            if (left := self._inheritance) is not None:
                self._inheritance = None
                await self._serve(tasks, left.sock, left.handover)
            async for sock in sockets:
                await self._serve(tasks, sock)

    def lost(self) -> None:
        """Take notice that the link has ended."""
        self._gone.set()

    def inherit(self, inheritance: Inheritance) -> None:
        """Begin with a link that another process has left, before `run`."""
        self._inheritance = inheritance

    async def release(self) -> Inheritance | None:
        """Let go of the link at rest, for another process to go on with; None where it is not at rest.

        What is returned is the caller's. Nobody is served any more; `run` is to be cancelled next.
        """
        hub, link, sock = self._hub, self._hub.link, self._sock
        if link is None or sock is None or hub.clients or isinstance(self._address, FdAddress):
            return None
        hub.link = None  # so that the end of the guard's own session is no loss
        for task in self._own:
            task.cancel()
        await asyncio.wait(self._own)
        if (number := await link.rest()) is None:
            return None
        hidden = hub.gate.primaries.hidden
        return Inheritance(sock.dup(), Handover(hub.name, str(self._address), link.greeting, number, hidden))

    async def _serve(self, tasks: Tasks, sock: socket.socket, handover: Handover | None = None) -> None:
        """Serve one connection to QEMU until it ends; ``handover``: it was negotiated by another process."""
        hub = self._hub
        with sock:
            try:
                greeting, events = await self._begin(sock, handover)
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("vm=%s %s: %s", hub.name, self._address, str(error) or "no greeting in time")
                return
            self._meet(whose(sock, self._address), handover)
            stream = Stream(sock, hub.outbox, limit=MAX_UNSENT, descriptors=False, linger=LINGER)
            link = Link(stream, hub, greeting, handover.number if handover else 0)
            ours, theirs = socket.socketpair()
            control = hub.gate.control = Control()
            own = self._own = [
                tasks.start("control", control.serve(theirs), partial(_failed, link)),
                tasks.start("watch", hub.watch.run(), partial(_failed, link)),
            ]
            if "oob" in greeting.offered:
                own.append(tasks.start("heartbeat", hub.heartbeat.run(control), partial(_failed, link)))
            try:
                self._sock = sock
                self._gone.clear()
                hub.up(link, ours)
                for event in events:
                    hub.happened(event)
                stream.start(link)
                await self._gone.wait()
            finally:
                for task in own:
                    task.cancel()
                hub.link = hub.gate.control = None
                control.close()
                hub.connected.clear()
                stream.close()
                await asyncio.wait(own)

    async def _begin(self, sock: socket.socket, handover: Handover | None) -> tuple[Greeting, list[QemuEvent]]:
        if handover is None:
            return await negotiate(sock, str(self._address))
        log.info("vm=%s the link goes on from the process before", self._hub.name)
        return handover.greeting, []

    def _meet(self, qemu: tuple[int, ...] | None, handover: Handover | None) -> None:
        """Forget what was true of another QEMU; a connection that was merely lost changes nothing."""
        gate = self._hub.gate
        if qemu is None or qemu != self._qemu:
            gate.renew()
        self._qemu = qemu
        if handover is not None:
            gate.primaries.hidden = handover.hidden


def _failed(link: Link, error: Exception) -> None:
    """Called when the guard's own work on a link has failed: it is made anew with the next link."""
    link.lose(f"the guard's own work on it has failed: {error!r}"[:200])
