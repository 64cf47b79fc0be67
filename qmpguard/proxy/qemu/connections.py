"""The connections to one QEMU, one after the other: reached, dialled in, or inherited; each negotiated.

`QemuConnections.next` returns a negotiated connection after the back-off; its user serves it, and says when it has
ended or what has failed. Whatever goes wrong on the way to a QEMU is an `Absence` of its VM: reported, logged once an
hour, and tried again. A passed connection that has ended stays so, since a descriptor cannot be opened again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress, Inbound
from qmpguard.proxy.listening.moved_socket import takeover_hint
from qmpguard.proxy.qemu.absence import GONE, Absence, AbsentError, BackOff, Cause, Notices, absence
from qmpguard.proxy.qemu.negotiation import NO_GREETING, Negotiated, negotiate
from qmpguard.proxy.sockets.dial import connect, hang_up, peer_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.address import QemuAddress
    from qmpguard.policy.device import Device
    from qmpguard.proxy.listening.peer import ProcessIdentity
    from qmpguard.proxy.listening.qemu_listener import QemuListener
    from qmpguard.proxy.qemu.handover import Inheritance
    from qmpguard.wire.qemu_messages import Greeting, QemuEvent

log = logging.getLogger(__name__)

#: Seconds without a connection after which a QEMU that dials in counts as ended. Its `reconnect` is 1 s to 10 s.
DIALS_AGAIN = 10.0


class Presence(Enum):
    """Whether QEMU is there, as far as its connections tell."""

    AWAITED = "awaited"  # it has not been there yet
    LINKED = "linked"
    LOST = "lost"  # the link has ended; QEMU may still be there
    ENDED = "ended"  # the link has ended, and no QEMU is there any more


@dataclass(frozen=True, slots=True)
class NegotiatedConnection:
    """A negotiated connection to QEMU, and the events that came with the negotiation.

    ``number`` is the id of the last request on it. ``qemu`` is what tells this QEMU from another; None where nothing
    does. ``same_qemu``: it is surely the QEMU of the connection before.
    ``hidden`` are the failover primaries that the process before remembered, ``netdevs`` the network back ends,
    ``negotiated`` the standbys whose guest has negotiated failover; ``hidden`` is None where there was no process
    before. ``process`` is QEMU's; None where it is not known.
    """

    sock: socket.socket
    greeting: Greeting
    events: list[QemuEvent] = field(default_factory=list)
    number: int = 0
    qemu: tuple[int, ...] | None = None
    same_qemu: bool = False
    hidden: tuple[Device, ...] | None = None
    netdevs: tuple[Device, ...] = ()
    negotiated: frozenset[str] = frozenset()
    is_passed: bool = False
    process: ProcessIdentity | None = None

    def hang_up(self) -> None:
        """End it for QEMU too: the number of a passed connection stays open in this process."""
        if self.is_passed:
            hang_up(self.sock)

    def close(self) -> None:
        """Close its socket."""
        self.sock.close()


class QemuConnections:
    """Makes the connections to one VM's QEMU.

    ``listener`` is where a QEMU that dials in connects; others have none. ``on_presence`` is called after each change
    of ``presence`` and for each connection that is served, ``on_absent`` with the reason why there is no link,
    ``on_fault`` with an exception of the guard.
    ``address`` differs from the configured one where a takeover cannot protect the socket.
    """

    def __init__(self, vm: str, address: QemuAddress, on_absent: Callable[[Absence], None]) -> None:
        self.presence = Presence.AWAITED
        self.on_presence: Callable[[], None] = _nothing
        self.on_fault: Callable[[Exception], None] = _ignore
        self.listener: QemuListener | None = None
        self.address = address
        self._vm = vm
        self._on_absent = on_absent
        self._qemu: tuple[int, ...] | None = None  # the identity of the last one
        self._inheritance: Inheritance | None = None
        self._back_off = BackOff()
        self._notices = Notices()
        self._begun = 0.0  # when the present one was served, by the loop's clock
        self._delay: float | None = None  # before the next attempt
        self._last = False
        self._used = False  # the passed connection: nothing can be begun anew on it

    async def next(self) -> NegotiatedConnection | None:
        """Return the next connection, which the caller closes; None where there will be none any more.

        Raises nothing but cancellation.
        """
        while not self._last:
            if self._delay is not None:
                await asyncio.sleep(self._delay)
            try:
                return await self._establish()
            except Exception as error:  # noqa: BLE001 -- whatever it is: it is this VM's, and tried again
                self.on_failure(error)
        return None

    def on_linked(self, connection: NegotiatedConnection) -> None:
        """Called when a connection is served."""
        self._qemu = connection.qemu
        self._begun = asyncio.get_running_loop().time()
        self.presence = Presence.LINKED
        self.on_presence()

    def on_lost(self) -> None:
        """Called when the link has ended."""
        self._change(Presence.LOST)

    def on_failure(self, error: Exception) -> None:
        """Take what has kept a connection from being made or served."""
        found = absence(error)
        if found.cause is Cause.FAULT:
            self.on_fault(error)
        if self._used:
            found = Absence(Cause.ENDED, f"failed: {found.reason}; a descriptor cannot be opened again")
        self._report(found)
        self._last = self._last or found.cause is Cause.ENDED
        self._delay = self._back_off.next(found.cause)

    def on_ended(self) -> None:
        """Called when a connection is served no more."""
        if self._back_off.lasted(asyncio.get_running_loop().time() - self._begun):
            self._notices = Notices()
        self._delay = self._back_off.next(None)

    # for another process, or another config

    def inherit(self, inheritance: Inheritance) -> None:
        """Begin with a connection that another has left, before `next`."""
        self._inheritance = inheritance

    def succeed(self, other: QemuConnections) -> None:
        """Go on for another that had no link, or lost it: what is known of QEMU's presence stays known."""
        if other.presence is not Presence.LINKED:
            self._change(other.presence)

    def stop(self) -> None:
        """Make no further connection; the present one stays."""
        self._last = True

    def close(self) -> None:
        """Let no QEMU dial in any more, and close a connection that was inherited and not begun with."""
        if self.listener is not None:
            self.listener.close()
        if (left := self._inheritance) is not None:
            self._inheritance = None
            left.sock.close()

    # one attempt

    async def _establish(self) -> NegotiatedConnection:
        if (left := self._inheritance) is not None:
            self._inheritance = None
            return self._inherited(left)
        with ExitStack() as stack:
            sock = stack.enter_context(await self._connect())
            self._used = isinstance(self.address, FdAddress)
            if self._used:
                stack.callback(hang_up, sock)
            negotiated = await negotiate(sock, self._on_silence)
            connection = self._connection(sock, negotiated)
            stack.pop_all()
        return connection

    def _inherited(self, left: Inheritance) -> NegotiatedConnection:
        with ExitStack() as stack:
            sock = stack.enter_context(left.sock)
            self._used = isinstance(self.address, FdAddress)
            if self.listener is not None:
                self.listener.serves(sock)
            self.presence = Presence.LINKED  # it was there
            log.info("vm=%s the link goes on from the guard before", self._vm)
            handover = left.handover
            connection = self._connection(sock, Negotiated(handover.greeting, [], handover.process))
            stack.pop_all()
        unseen = replace(connection, hidden=handover.hidden, netdevs=handover.netdevs, negotiated=handover.negotiated)
        return replace(unseen, number=handover.number)

    def _connection(self, sock: socket.socket, negotiated: Negotiated) -> NegotiatedConnection:
        greeting, events, process = negotiated
        qemu = peer_identity(sock, self.address)
        same = qemu is not None and qemu == self._qemu
        return NegotiatedConnection(
            sock, greeting, events, qemu=qemu, same_qemu=same, is_passed=self._used, process=process
        )

    async def _connect(self) -> socket.socket:
        """Return a connection to QEMU. Raises the reason why there is none."""
        if isinstance(self.address, Inbound):
            return await self._dialled()
        if self._used:
            raise AbsentError(Cause.ENDED, "the connection has ended")
        return await connect(self.address)

    async def _dialled(self) -> socket.socket:
        assert self.listener is not None
        if self.presence is Presence.LOST:
            try:
                async with asyncio.timeout(DIALS_AGAIN):
                    return await self.listener.next()
            except TimeoutError:
                self._change(Presence.ENDED)
                self._report(Absence(Cause.DIALS, "QEMU has ended, or does not connect again"))
        return await self.listener.next()

    # what is known of QEMU

    def _on_silence(self) -> None:
        self._report(Absence(Cause.OCCUPIED, NO_GREETING))

    def _report(self, found: Absence) -> None:
        """Show why there is no link, and log it if that is new."""
        if found.cause in (Cause.MISSING, Cause.NOBODY):
            found = replace(found, reason=found.reason + takeover_hint(self.address))
        self._on_absent(found)
        more = self._notices.admit(found, asyncio.get_running_loop().time())
        if more is not None:
            level = logging.INFO if found.cause in GONE else logging.WARNING
            log.log(level, "vm=%s waiting for QEMU at %s: %s%s", self._vm, self.address, found.reason, more)
        if found.cause is Cause.ENDED or (self.presence is Presence.LOST and found.cause in GONE):
            self._change(Presence.ENDED)

    def _change(self, presence: Presence) -> None:
        if presence is not self.presence:
            self.presence = presence
            self.on_presence()


def _nothing() -> None:
    pass


def _ignore(_: Exception) -> None:
    pass
