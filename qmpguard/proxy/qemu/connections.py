"""The links to one QEMU, one after the other, each with the guard's own work on it; the last one can be handed over.

Whatever goes wrong on the way to a QEMU is its VM's `Absence`: shown, logged once an hour, and tried again with
back-off. Nothing here ends `QemuConnections.run` but to cancel it: a passed connection that has ended stays so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import ExitStack, asynccontextmanager
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress, Inbound
from qmpguard.proxy.qemu.absence import GONE, Absence, AbsentError, BackOff, Cause, Notices, absence
from qmpguard.proxy.qemu.control import Control
from qmpguard.proxy.qemu.handover import Handover, Inheritance
from qmpguard.proxy.qemu.link import LINGER, MAX_UNSENT, Link
from qmpguard.proxy.qemu.negotiation import NO_GREETING, negotiate
from qmpguard.proxy.sockets.dial import connect, hang_up, peer_identity
from qmpguard.proxy.sockets.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from qmpguard.address import QemuAddress
    from qmpguard.proxy.hub import Hub
    from qmpguard.proxy.listening.qemu_listener import QemuListener
    from qmpguard.tasks import Tasks
    from qmpguard.wire.qemu_messages import Greeting, QemuEvent

log = logging.getLogger(__name__)

#: Seconds without a connection after which a QEMU that dials in counts as ended. Its `reconnect` is 1 s to 10 s.
DIALS_AGAIN = 10.0


class Presence(Enum):
    """Whether QEMU is there, as far as its links tell."""

    AWAITED = "awaited"  # it has not been there yet
    LINKED = "linked"
    LOST = "lost"  # the link has ended; QEMU may still be there
    ENDED = "ended"  # the link has ended, and no QEMU is there any more


class QemuConnections:
    """Keeps a link from a hub to its QEMU: reached or inherited, served until it ends, and then the next.

    ``listener``: where a QEMU that dials in connects; others have none. ``on_presence`` is called after each change
    of ``presence``.
    """

    def __init__(self, hub: Hub, address: QemuAddress) -> None:
        self.presence = Presence.AWAITED
        self.on_presence: Callable[[], None] = _nothing
        self.listener: QemuListener | None = None
        self._hub = hub
        self._address = address
        self._qemu: tuple[int, ...] | None = None  # which one the link is with
        self._gone = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []  # the guard's own work on the link
        self._sock: socket.socket | None = None
        self._inheritance: Inheritance | None = None
        self._back_off = BackOff()
        self._notices = Notices()
        self._begun = 0.0  # when the link was, by the loop's clock
        self._last = False
        self._used = False  # the passed connection: nothing can be begun anew on it

    async def run(self, tasks: Tasks) -> None:
        """Keep a link until cancelled; ``tasks`` owns the work on it."""
        while not self._last:
            found = await self._once(tasks)
            if found is not None and found.cause is Cause.ENDED:
                break
            await asyncio.sleep(self._back_off.next(None if found is None else found.cause))
        await asyncio.get_running_loop().create_future()  # without a link, until cancelled

    def lost(self) -> None:
        """Called when the link has ended."""
        self._change(Presence.LOST)
        self._gone.set()

    def inherit(self, inheritance: Inheritance) -> None:
        """Begin with a link that another has left, before `run`."""
        self._inheritance = inheritance

    def succeed(self, other: QemuConnections) -> None:
        """Go on for another that had no link, or lost it: what is known of QEMU's presence stays known."""
        if other.presence is not Presence.LINKED:
            self._change(other.presence)

    def stop(self) -> None:
        """Make no further link; the present one stays."""
        self._last = True

    def close(self) -> None:
        """Let no QEMU dial in any more, and close what was inherited and not begun with."""
        if self.listener is not None:
            self.listener.close()
        if (left := self._inheritance) is not None:
            self._inheritance = None
            left.sock.close()

    async def release(self, *, within: bool = False) -> Inheritance | None:
        """Let go of the link at rest, for another to go on with; None where it is not at rest.

        ``within`` this process, a passed connection can be handed on, too. What is returned is the caller's. Nobody is
        served any more; `run` is to be cancelled next.
        """
        hub, link, sock = self._hub, self._hub.link, self._sock
        if link is None or sock is None or hub.clients or (isinstance(self._address, FdAddress) and not within):
            return None
        hub.link = None  # so that the end of the guard's own session is no loss
        for task in self._own:
            task.cancel()
        await asyncio.wait(self._own)
        if (number := await link.rest()) is None:
            return None
        hidden = hub.gate.primaries.hidden
        inheritance = Inheritance(sock.dup(), Handover(hub.name, str(self._address), link.greeting, number, hidden))
        self._sock = None
        return inheritance

    # one attempt

    async def _once(self, tasks: Tasks) -> Absence | None:
        """Make a link and serve it until it ends. Return why there was none; None where there was one."""
        try:
            if (left := self._inheritance) is not None:
                self._inheritance = None
                await self._serve(tasks, left.sock, left.handover)
            else:
                await self._serve(tasks, await self._connect())
        except Exception as error:  # noqa: BLE001 -- whatever it is: it is this VM's, and tried again
            found = absence(error)
            if found.cause is Cause.FAULT:
                tasks.record("uplink", error)
            if self._used:
                found = Absence(Cause.ENDED, f"failed: {found.reason}; a descriptor cannot be opened again")
            self._absent(found)
            return found
        return None

    async def _connect(self) -> socket.socket:
        """Return a connection to QEMU. Raises what says why there is none."""
        if isinstance(self._address, Inbound):
            return await self._dialled()
        if self._used:
            raise AbsentError(Cause.ENDED, "the connection has ended")
        return await connect(self._address)

    async def _dialled(self) -> socket.socket:
        assert self.listener is not None
        if self.presence is Presence.LOST:
            try:
                async with asyncio.timeout(DIALS_AGAIN):
                    return await self.listener.next()
            except TimeoutError:
                self._change(Presence.ENDED)
                self._absent(Absence(Cause.DIALS, "QEMU has ended, or does not connect again"))
        return await self.listener.next()

    async def _serve(self, tasks: Tasks, sock: socket.socket, handover: Handover | None = None) -> None:
        """Serve one connection to QEMU until it ends; ``handover``: it was negotiated by another.

        Raises what says why there was no link.
        """
        with ExitStack() as stack:
            stack.enter_context(sock)
            ours, theirs = socket.socketpair()  # before anything is said: without descriptors nothing is begun
            unused = stack.enter_context(ExitStack())
            unused.callback(ours.close)
            unused.callback(theirs.close)
            greeting, events = await self._begin(sock, handover)
            self._meet(peer_identity(sock, self._address), handover)
            stream = Stream(sock, self._hub.outbox, limit=MAX_UNSENT, descriptors=False, linger=LINGER)
            link = Link(stream, self._hub, greeting, handover.number if handover else 0)
            async with self._working(tasks, link, theirs):
                self._sock = sock
                self._gone.clear()
                self._begun = asyncio.get_running_loop().time()
                try:
                    self._hub.up(link, ours)
                    unused.pop_all()
                    self._change(Presence.LINKED)
                    for event in events:
                        self._hub.happened(event)
                    stream.start(link)
                    await self._gone.wait()
                except Exception as error:
                    link.lose(_failure(error))
                    raise
                finally:
                    self._ended(stream)

    @asynccontextmanager
    async def _working(self, tasks: Tasks, link: Link, sock: socket.socket) -> AsyncGenerator[None]:
        """Do the guard's own work on a link as long as the block lasts; it talks over ``sock``, and closes it."""
        control = self._hub.gate.control = Control(self._hub.name)
        own = self._own = self._work(tasks, link, control, sock)
        own[0].add_done_callback(lambda _: sock.close())  # also where it is cancelled before it begins
        try:
            yield
        finally:
            for task in own:
                task.cancel()
            self._hub.link = self._hub.gate.control = None
            control.close()
            self._hub.connected.clear()
            await asyncio.wait(own)

    def _work(self, tasks: Tasks, link: Link, control: Control, sock: socket.socket) -> list[asyncio.Task[None]]:
        """Begin the guard's own work on a link. Where it fails, the link is lost, and made anew."""
        hub, on_fault = self._hub, partial(_failed, link)
        work = [
            tasks.start("control", control.serve(sock), on_fault),
            tasks.start("watch", hub.watch.run(), on_fault),
        ]
        if "oob" in link.greeting.offered:
            work.append(tasks.start("heartbeat", hub.heartbeat.run(control), on_fault))
        return work

    async def _begin(self, sock: socket.socket, handover: Handover | None) -> tuple[Greeting, list[QemuEvent]]:
        self._used = isinstance(self._address, FdAddress)
        if handover is not None:
            self.presence = Presence.LINKED  # it was there
            log.info("vm=%s the link goes on from the guard before", self._hub.name)
            return handover.greeting, []
        try:
            return await negotiate(sock, self._on_silence)
        except BaseException:
            self._hang_up(sock)
            raise

    def _meet(self, qemu: tuple[int, ...] | None, handover: Handover | None) -> None:
        """Forget what was true of another QEMU; a connection that was merely lost changes nothing."""
        gate = self._hub.gate
        if qemu is None or qemu != self._qemu:
            gate.renew()
        self._qemu = qemu
        if handover is not None:
            gate.primaries.hidden = handover.hidden

    def _ended(self, stream: Stream) -> None:
        """Called when a link has ended, or was handed on."""
        if self._back_off.lasted(asyncio.get_running_loop().time() - self._begun):
            self._notices = Notices()
        sock, self._sock = self._sock, None
        if sock is not None:  # it was not handed on
            self._hang_up(sock)
        stream.close()

    def _hang_up(self, sock: socket.socket) -> None:
        if isinstance(self._address, FdAddress):
            hang_up(sock)

    # what is known of QEMU

    def _on_silence(self) -> None:
        self._absent(Absence(Cause.OCCUPIED, NO_GREETING))

    def _absent(self, found: Absence) -> None:
        """Show why there is no link, and log it if that is new."""
        self._hub.recorder.absent(found.reason, found.cause.value)
        more = self._notices.admit(found, asyncio.get_running_loop().time())
        if more is not None:
            level = logging.INFO if found.cause in GONE else logging.WARNING
            log.log(level, "vm=%s waiting for QEMU at %s: %s%s", self._hub.name, self._address, found.reason, more)
        if found.cause is Cause.ENDED or (self.presence is Presence.LOST and found.cause in GONE):
            self._change(Presence.ENDED)

    def _change(self, presence: Presence) -> None:
        if presence is not self.presence:
            self.presence = presence
            self.on_presence()


def _failed(link: Link, error: Exception) -> None:
    """Called when the guard's own work on a link has failed."""
    link.lose(_failure(error))


def _failure(error: Exception) -> str:
    return f"the guard's own work on the link failed: {error!r}"[:200]


def _nothing() -> None:
    pass
