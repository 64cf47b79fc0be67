"""The one connection to QEMU: greeting, ids, replies and events. It knows no client's socket, only requests.

Every request goes out under a number of ours; the reply with that number goes back under the client's own id.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from qmpguard.proxy.clients.pending import LONG, Unanswered
from qmpguard.wire.qemu_messages import OddReply, QemuEvent, Splitter, find_id, with_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.proxy.sockets.stream import Stream
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: in-band requests in flight: QEMU stops reading at eight (monitor/qmp.c: QMP_REQ_QUEUE_LEN_MAX), and
#: out-of-band requests with them
WINDOW = 7
#: of these, for clients; the last one is the guard's own
CLIENT_WINDOW = 6
#: seconds that a link may take to come to rest, and between two looks whether it has
REST, TICK = 1.0, 0.01
#: what QEMU may leave unread before the next request of a client waits
MAX_BEHIND = 1 << 20
#: seconds in which what QEMU has said before it closed is read, where that was noticed by a write error
LINGER = 5.0
#: what QEMU may leave unread at all
MAX_UNSENT = 128 << 20


class LinkOwner(Protocol):
    """Who is told what QEMU says."""

    name: str
    counts: Counters

    def answered(self, pending: PendingRequest, message: bytes, reply: bytes) -> None:
        """Take QEMU's ``message`` as it came, and the ``reply`` made of it, which carries the client's own id."""
        ...

    def happened(self, event: QemuEvent) -> None:
        """Take an event."""
        ...

    def link_lost(self, reason: str) -> None:
        """Take notice that QEMU is gone."""
        ...


class Link:
    """A negotiated connection to QEMU. It ends when QEMU does; the hub makes the next one."""

    def __init__(self, stream: Stream, hub: LinkOwner, greeting: Greeting, number: int = 0) -> None:
        self.greeting = greeting
        self.lost_reason: str | None = None
        self._stream = stream
        self._hub = hub
        self._flight: dict[int, PendingRequest] = {}
        self._in_band = 0
        self._number = number
        self._answered = number  # the last in-band request that QEMU has answered
        self._splitter = Splitter()

    def has_room(self, *, privileged: bool) -> bool:
        """Say whether an in-band request can be sent now."""
        if privileged:
            return self._in_band < WINDOW
        return self._in_band < CLIENT_WINDOW and not self.is_behind

    @property
    def is_behind(self) -> bool:
        """Say whether QEMU leaves so much unread that nothing more of clients is to be sent, out-of-band or not."""
        return self._stream.pending >= MAX_BEHIND

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, when QEMU has left nothing unread."""
        self._stream.when_sent(callback)

    def send(self, pending: PendingRequest) -> None:
        """Send a request; its reply goes to `LinkOwner.answered`."""
        request = pending.request
        assert request is not None
        number = self._number + 1
        # where a request cannot be encoded, as without memory, nothing has changed and nothing of it is sent
        data = request.encode(number) if pending.size <= LONG else request.pieces(number)
        self._number = number
        self._flight[number] = pending
        pending.sent = True
        self._in_band += not request.oob
        descriptor, pending.descriptor = pending.descriptor, None
        if descriptor:
            self._hub.counts.descriptors_passed += 1
        if isinstance(data, bytes):
            self._stream.write(data, descriptor)
        else:
            self._stream.write_long(data, min(pending.size, MAX_BEHIND), descriptor)

    @property
    def skipped(self) -> str | None:
        """The command of the oldest request that QEMU has not answered though it answered a later one; else None.

        QEMU executes and answers in-band requests in their order (monitor/qmp.c: monitor_qmp_dispatcher_co).
        """
        for number, pending in self._flight.items():
            if number > self._answered:
                return None
            if not pending.oob and pending.request is not None:
                return pending.request.command
        return None

    def close(self) -> None:
        """Close the connection; the hub is not told, since it asks."""
        self._stream.close()

    async def rest(self) -> int | None:
        """Come to rest and read no more. Return the last number; None where something is still under way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST):
                while self._flight:  # noqa: ASYNC110 -- an event for it would cost every reply something
                    await asyncio.sleep(TICK)
        self._stream.pause()
        busy = self._flight or self._splitter.held or self._stream.pending or self.lost_reason is not None
        return None if busy else self._number

    # what the stream says

    def received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes from QEMU and hand on each message that they complete. There are no descriptors with them."""
        try:
            messages = self._splitter.feed(data)
        except OverflowError as error:
            self._lose(str(error))
            return
        for message in messages:
            if self.lost_reason is None:
                self._message(message)

    def ended(self) -> None:
        """Take notice that QEMU has closed its side: nothing more will come."""
        self._lose("QEMU closed the connection")

    def lost(self, reason: str) -> None:
        """Take notice that the connection broke."""
        self._lose(reason)

    # from messages to replies and events

    def _message(self, message: bytes) -> None:
        place = find_id(message)
        if place is None:
            self._odd(message)
            return
        start, end = place
        number = int(message[start:end])
        if (pending := self._landed(number)) is not None:
            self._hub.answered(pending, message, with_id(message, place, pending.id))
        else:
            self._lose(f"QEMU answered a request that was not sent: id {number}")

    def _odd(self, message: bytes) -> None:
        try:
            odd = OddReply(message)
        except ValueError as error:
            self._lose(f"QEMU sent what is no QMP: {error}")
            return
        if odd.event is not None:
            self._hub.happened(odd.event)
        elif odd.number is not None and (pending := self._landed(odd.number)) is not None:
            self._hub.answered(pending, message, odd.with_id(pending.id))
        else:
            # an error without an id: QEMU could not read what we sent, so our encoder is wrong
            answer = message[:200].decode("ascii", "replace").strip()
            log.error("vm=%s QEMU answered without an id: %r", self._hub.name, answer)
            self._lose("QEMU could not read a request")

    def _landed(self, number: int) -> PendingRequest | None:
        pending = self._flight.pop(number, None)
        if pending is not None and not pending.oob:
            self._in_band -= 1
            self._answered = max(number, self._answered)
        return pending

    def lose(self, reason: str) -> None:
        """End the link, and tell the hub why."""
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if self.lost_reason is None:
            self.lost_reason = reason
            self._stream.close()
            flight, self._flight = self._flight, {}
            for pending in flight.values():
                pending.drop_descriptor()
                pending.conclude(Unanswered.LOST)
            self._hub.link_lost(reason)
