"""One client's conversation, as QEMU's monitor has it: negotiation, requests in, replies out in order. No sockets here.

States (`State`), and what leads from one to the next:

    WAITING      there is no QEMU. `greet` sends its greeting and begins to read.
    NEGOTIATING  every command but ``qmp_capabilities`` is answered with an error (monitor/qmp.c: qmp_dispatch_check).
                 A valid ``qmp_capabilities`` leads on. While QEMU's heartbeat is missing its answer waits, since tools
                 tell by it whether QEMU hangs.
    COMMANDS     requests go to the hub, one `PendingRequest` each.
    ENDING       `finish`: nothing more is read or answered; what is due to the client is still being sent.
    CLOSED       `close`: the hub has been told, with the requests that were never sent.

Invariants:

* Each message is answered once, or the conversation ends. Replies leave in the order of `ReplyOrder`.
* A client has at most `OUTSTANDING` requests without a reply. Then its bytes stay in the kernel, which is the
  back-pressure that QEMU gives (monitor_qmp_read stops, handle_qmp_command: QMP_REQ_QUEUE_LEN_MAX).
* Without out-of-band QEMU reads one request at a time, and drops what it has not read when the client leaves. So an
  in-band request waits here for the reply of the one before it (``_held``), but for queries: they change nothing, so
  nobody can tell that they were sent early.
* In one wake-up of the event loop at most `TURN` messages of a client are looked at, whoever causes it to be read on.
* `settle`, called while messages are looked at (``_reading.now``), looks at none: the depth of calls does not grow.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.proxy.clients.input import Input, Received
from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.proxy.clients.reading import OUTSTANDING, QUERY, TURN, Reading, State
from qmpguard.proxy.clients.reply_order import ReplyOrder
from qmpguard.proxy.closing import CloseReason
from qmpguard.wire.client_messages import (
    COMMAND_NOT_FOUND,
    NOT_NEGOTIATED,
    BadRequest,
    Request,
    error_reply,
    read_enable,
    success_reply,
)
from qmpguard.wire.framing import MAX_REQUEST, Malformed

if TYPE_CHECKING:
    from qmpguard.proxy.clients.interfaces import ClientTransport, Upstream
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.record import Peer
    from qmpguard.wire.qemu_messages import Greeting

# the way to a member through its class costs as much as a system call
_COMMANDS, _CLOSED = State.COMMANDS, State.CLOSED


class Session:
    """One client's conversation, ``since`` a time of the epoch. ``is_over``: nothing more is answered."""

    privileged = False

    def __init__(
        self,
        hub: Upstream,
        stream: ClientTransport,
        peer: Peer,
        *,
        max_request: int = MAX_REQUEST,
        since: float = 0.0,
    ) -> None:
        self.hub = hub
        self.stream = stream
        self.peer = peer
        self.since = since
        self.state = State.WAITING
        self.is_over = False
        self.todo: deque[PendingRequest] = deque()
        self.holder: PendingRequest | None = None
        self._replies = ReplyOrder(stream.write)
        self._held: PendingRequest | None = None  # in-band, until all earlier ones are answered
        self._input = Input(max_request)
        self._reading = Reading()
        self._half_closed = False  # the client, or the guard, wants no more requests read
        self._negotiation: Request | None = None  # is answered when QEMU's heartbeat is back

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent to the client."""
        return self.state is _CLOSED

    @property
    def outstanding(self) -> int:
        """The number of requests without a reply."""
        return self._replies.outstanding

    @property
    def weight(self) -> int:
        """Bytes held for the client: replies that it has not taken, its unfinished message, its open requests."""
        return self.stream.pending + self._input.held + self._replies.size

    def wait(self) -> None:
        """Read nothing yet: there is no QEMU."""
        self.stream.wait(self)

    def greet(self, greeting: Greeting) -> None:
        """Send QEMU's greeting and begin to read, as that QEMU reads."""
        if self.state is State.WAITING:
            self.state = State.NEGOTIATING
            self._input.follow(skips=greeting.skips)
            self.stream.start(self)
            self.stream.write(greeting.line)

    def on_alive(self) -> None:
        """Called when QEMU's heartbeat is back: answer the negotiation that has waited for it."""
        if self._negotiation is not None:
            request, self._negotiation = self._negotiation, None
            self._reading.now = True  # what follows is looked at when the negotiation is complete
            try:
                self._negotiate(request)
            finally:
                self._reading.now = False
            self._read(busy=self._input.busy)

    def on_event(self, line: bytes) -> None:
        """Pass an event of QEMU on, if the client has negotiated."""
        if self.state is _COMMANDS:
            self.stream.write(line)

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Answer a request: at once if its reply is the next or out-of-band, else when its turn comes."""
        if pending.settled or self.is_over:
            return
        self._replies.settle(pending, reply)
        if self._held is not None and self._replies.oldest is self._held:
            self.todo.append(self._held)
            self._held = None
            self.hub.submit(self)
        reading = self._reading
        if (reading.stalled or self._half_closed) and not reading.now:
            self._read(busy=self._input.busy)

    # the end

    def stop_reading(self) -> None:
        """Read no more, and close when everything received is answered: the guard stops."""
        self._half_closed = True
        self._pause()
        if self.state is State.WAITING:
            self.close(CloseReason.STOPPED)
        elif self.state is not State.ENDING and not (self.outstanding or self._input.busy):
            self._close_when_sent(CloseReason.STOPPED)

    def finish(self, reason: CloseReason) -> None:
        """Send what is due to the client, then close; nothing more is read or answered. The caller sets a timeout."""
        if self.is_over:
            return
        self.state, self.is_over = State.ENDING, True
        self._pause()
        self._input.drop_descriptor()
        self._close_when_sent(reason)

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the conversation; replies that are still under way will be dropped."""
        if self.state is _CLOSED:
            return
        self.state, self.is_over = State.CLOSED, True
        self._input.drop_descriptor()
        unsent = self._replies.clear()
        self._held = self.holder = None  # each holds the session, and a closed one is to be free at once
        self.todo.clear()
        self.stream.close()
        self.hub.on_session_closed(self, reason, detail, unsent)

    def _close_when_sent(self, reason: CloseReason) -> None:
        self.stream.flush()
        if self.stream.pending:
            self.stream.when_sent(partial(self.close, reason))
        else:
            self.close(reason)

    # called by the stream

    def data_received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes from the client, and descriptors that came with them."""
        if descriptors:
            self.hub.on_descriptors(len(descriptors))
        self._input.feed(data, descriptors)
        self._read(busy=True)
        self.hub.outbox.grew(len(data))

    def eof_received(self) -> None:
        """Answer what was received, then close: QEMU does so too when a client has sent its last byte."""
        self._half_closed = True
        self._read(busy=self._input.busy)

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Close: the connection is gone."""
        self.close(reason, detail)

    # from bytes to requests

    def _read(self, *, busy: bool) -> None:
        """Look at messages as long as there are any, the client has a turn and not too many requests without a reply.

        ``busy`` says whether the input has something to look at.
        """
        reading = self._reading
        reading.now = True
        try:
            while busy and not self._is_full and not self.is_over and self._has_a_turn():
                received = self._input.next()
                if received is None:
                    busy = self._input.busy
                    break
                busy = received.more
                self._on_message(received)
        finally:
            reading.now = False
        if not self.is_over:
            self._wait_for_more(busy=busy)

    def _has_a_turn(self) -> bool:
        """Count one more message, and say whether it may be looked at in this wake-up."""
        reading, wakeup = self._reading, self.hub.outbox.wakeup
        if wakeup != reading.wakeup:
            reading.wakeup, reading.count = wakeup, 0
        reading.count += 1
        return reading.count <= TURN

    @property
    def _is_full(self) -> bool:
        return self._held is not None or self._negotiation is not None or self._replies.outstanding >= OUTSTANDING

    def _wait_for_more(self, *, busy: bool) -> None:
        reading = self._reading
        reading.stalled = self._is_full
        if reading.stalled:
            self._pause()
        elif busy:
            # a long message, or many: the others have their turn before it is read on
            self._pause()
            self._schedule()
        elif not self._half_closed:
            if reading.paused:
                reading.paused = False
                self.stream.resume()
        elif not self.outstanding:
            self._close_when_sent(CloseReason.ENDED)

    def _pause(self) -> None:
        self._reading.paused = True
        self.stream.pause()

    def _schedule(self) -> None:
        if not self._reading.scheduled:
            self._reading.scheduled = True
            self.stream.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._reading.scheduled = False
        self._read(busy=self._input.busy)

    def _on_message(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Malformed):
            self.hub.on_malformed()
            self._replies.answer(error_reply(message.desc, None))
        elif isinstance(message, BadRequest):
            self._replies.answer(error_reply(message.desc, message.id))
        elif self.state is not _COMMANDS:
            self._negotiate(message)
        else:
            pending = PendingRequest(self, message, received.size, received.descriptor)
            is_first = self._replies.add(pending)
            if pending.oob:
                self.hub.submit_oob(pending)
            elif is_first or self._input.oob or message.command.startswith(QUERY):
                self.todo.append(pending)
                self.hub.submit(self)
            else:
                self._held = pending

    def _negotiate(self, request: Request) -> None:
        if request.command != "qmp_capabilities":
            self._replies.answer(error_reply(NOT_NEGOTIATED, request.id, kind=COMMAND_NOT_FOUND))
            return
        if not self.hub.is_alive:
            self._negotiation = request
            return
        enabled = read_enable(request.arguments, self.hub.offered)
        if isinstance(enabled, str):
            self._replies.answer(error_reply(enabled, request.id))
            return
        self._input.negotiated(oob="oob" in enabled)
        self._replies.answer(success_reply({}, request.id))
        self.state = State.COMMANDS
