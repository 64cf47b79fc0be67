"""The one connection to QEMU's monitor: ids, replies and events. No socket, no clock and no client's bytes here.

Every request goes to QEMU under a number of the guard's as its ``id``; the reply with that number goes back under the
client's own id. Invariants:

* In-band requests have one digit, the next one around (0 to 9) that is not in flight: a byte costs QEMU 4 us. At most
  `WINDOW` of the scheduler are in flight, so there is always a free one.
* Out-of-band requests have 10, 11, 12 and on. Such a number is used once in the life of a QEMU's connection, also by
  the process that a link is handed over to. No in-band request can have it.
* QEMU executes and answers in-band requests in their order (monitor/qmp.c: monitor_qmp_dispatcher_co). A request that
  QEMU has not answered, while it has answered a later one, will never be answered (``skipped``).
* So a reply that is lost, doubled or not asked for is noticed. Its number is not in flight, and the link ends; or other
  in-band requests were sent before the one that has the number now, and they are skipped. A second reply to a request
  could only be mistaken if QEMU sent it ten requests late, at the very moment of that turn's reply.
* A request that cannot be encoded, as for want of memory, leaves the link as it was: nothing of it is sent.
* After `lose` no message is handed on. Every request in flight has been told `Unanswered.LOST`: QEMU may have executed
  it. `on_link_lost` is called once, and not where the link is closed by its owner.
* A message without an id is an event, or QEMU's error about bytes that it could not read. The second means that the
  guard's own encoder is wrong, so the link ends.

A reply's bytes are handed on as they came but for the id: `find_id` says where it stands.
"""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from qmpguard.proxy.clients.pending import LONG, PendingRequest, Unanswered
from qmpguard.wire.qemu_messages import OddReply, QemuEvent, Splitter, find_id, with_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpguard.proxy.closing import CloseReason
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: what QEMU may leave unread before the next request of a client waits, in bytes
MAX_BEHIND = 1 << 20
#: what QEMU may leave unread at all
MAX_UNSENT = 128 << 20
#: seconds in which what QEMU has said before it closed is read, where that was noticed by a write error
LINGER = 5.0
#: the numbers of in-band requests are below it, those of out-of-band requests are not
DIGITS = 10


class QemuTransport(Protocol):
    """QEMU's socket: `qmpguard.proxy.sockets.stream.Stream`, or what a test puts in its place."""

    @property
    def pending(self) -> int:
        """Bytes that QEMU has not taken yet."""
        ...

    def write(self, data: bytes, descriptor: Descriptor | None = None) -> None:
        """Queue bytes, and a descriptor with them."""
        ...

    def write_long(self, pieces: Iterator[bytes], size: int, descriptor: Descriptor | None = None) -> None:
        """Queue a message in pieces, which counts for ``size`` bytes."""
        ...

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, when QEMU has taken everything."""
        ...

    def pause(self) -> None:
        """Read no more."""
        ...

    def close(self) -> None:
        """Close it, without a call of `Link.connection_lost`."""
        ...


class LinkOwner(Protocol):
    """The hub, as a link sees it."""

    name: str

    def on_reply(self, pending: PendingRequest, message: bytes, reply: bytes) -> None:
        """Called with QEMU's ``message`` as it came, and the ``reply`` made of it, with the client's own id."""
        ...

    def on_event(self, event: QemuEvent) -> None:
        """Called with an event of QEMU."""
        ...

    def on_link_lost(self, reason: str) -> None:
        """Called when the link has ended."""
        ...


class Link:
    """A negotiated connection to QEMU; the numbers of its out-of-band requests begin behind ``number``."""

    def __init__(self, stream: QemuTransport, owner: LinkOwner, greeting: Greeting, number: int = 0) -> None:
        self.greeting = greeting
        self.lost_reason: str | None = None
        self.is_behind = False
        self._stream = stream
        self._owner = owner
        self._in_flight: dict[int, PendingRequest] = {}  # in the order in which they were sent
        self._digit = -1  # of the last in-band request
        self._number = max(number, DIGITS - 1)  # of the last out-of-band request
        self._skipped: set[int] = set()
        self._splitter = Splitter()

    def send(self, pending: PendingRequest) -> None:
        """Send a request; its reply goes to `LinkOwner.on_reply`. Where its encoding raises, nothing is sent.

        ``is_behind`` is set where QEMU leaves so much unread that no more requests of clients are to be sent.
        """
        request, number = pending.request, self._number + 1 if pending.oob else self._next_digit()
        data = request.encode(number) if pending.size <= LONG else request.pieces(number)
        if pending.oob:
            self._number = number
        else:
            self._digit = number
        self._in_flight[number] = pending
        pending.sent = True
        descriptor, pending.descriptor = pending.descriptor, None
        stream = self._stream
        if isinstance(data, bytes):
            stream.write(data, descriptor)
        else:
            stream.write_long(data, min(pending.size, MAX_BEHIND), descriptor)
        self.is_behind = stream.pending >= MAX_BEHIND

    def _next_digit(self) -> int:
        digit = (self._digit + 1) % DIGITS
        if digit in self._in_flight:  # only where QEMU has skipped one
            return next(free for free in range(DIGITS) if free not in self._in_flight)
        return digit

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, when QEMU has left nothing unread."""
        self._stream.when_sent(callback)

    def caught_up(self) -> bool:
        """Return whether QEMU has read on, so that requests may be sent again."""
        self.is_behind = self._stream.pending >= MAX_BEHIND
        return not self.is_behind

    @property
    def number(self) -> int | None:
        """The number of the last out-of-band request; None where the link is not at rest.

        It is at rest where no request and no part of a message is under way.
        """
        busy = self._in_flight or self._splitter.held or self._stream.pending or self.lost_reason is not None
        return None if busy else self._number

    @property
    def is_idle(self) -> bool:
        """Whether QEMU has answered every request."""
        return not self._in_flight

    @property
    def skipped(self) -> str | None:
        """The command of the oldest request without an answer, where QEMU has answered a later one; else None."""
        commands = (pending.request.command for number, pending in self._in_flight.items() if number in self._skipped)
        return next(commands, None)

    def pause(self) -> None:
        """Read no more from QEMU."""
        self._stream.pause()

    def close(self) -> None:
        """Close the connection, without a call of `on_link_lost`."""
        self._stream.close()

    def lose(self, reason: str) -> None:
        """End the link, and tell its owner why."""
        if self.lost_reason is None:
            self.lost_reason = reason
            self._stream.close()
            in_flight, self._in_flight = self._in_flight, {}
            for pending in in_flight.values():
                pending.drop_descriptor()
                pending.conclude(Unanswered.LOST)
            self._owner.on_link_lost(reason)

    # called by the stream

    def data_received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes from QEMU and hand on each message that they complete. There are no descriptors with them."""
        try:
            messages = self._splitter.feed(data)
        except OverflowError as error:
            self.lose(str(error))
            return
        for message in messages:
            if self.lost_reason is not None:
                return
            place = find_id(message)
            if place is None:
                self._on_odd_message(message)
                continue
            number = int(message[place[0] : place[1]])
            pending = self._take(number)
            if pending is None:
                self.lose(f"QEMU answered a request that was not sent: id {number}")
                return
            self._owner.on_reply(pending, message, with_id(message, place, pending.id))

    def eof_received(self) -> None:
        """End: QEMU has closed its side, so nothing more will come."""
        self.lose("QEMU closed the connection")

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """End: the connection broke."""
        self.lose(detail or reason.value)

    def _take(self, number: int) -> PendingRequest | None:
        """Return the request that QEMU has answered. In-band requests that were sent before it are skipped."""
        in_flight = self._in_flight
        if number in in_flight and number < DIGITS and next(iter(in_flight)) != number:
            self._skipped.update(each for each in takewhile(number.__ne__, in_flight) if each < DIGITS)
        if self._skipped:
            self._skipped.discard(number)
        return in_flight.pop(number, None)

    def _on_odd_message(self, message: bytes) -> None:
        """Take an event, or a reply that QEMU has written in another way than usual."""
        try:
            odd = OddReply(message)
        except ValueError as error:
            self.lose(f"QEMU sent what is no QMP: {error}")
            return
        if odd.event is not None:
            self._owner.on_event(odd.event)
        elif odd.number is not None and (pending := self._take(odd.number)) is not None:
            self._owner.on_reply(pending, message, odd.with_id(pending.id))
        else:
            answer = message[:200].decode("ascii", "replace").strip()
            log.error("vm=%s QEMU answered without an id: %r", self._owner.name, answer)
            self.lose("QEMU could not read a request")
