"""One client's conversation: negotiation, requests in, replies out in order; QEMU's side of QMP.

A session answers itself what QEMU would answer before it looks at a command: the greeting, the negotiation, and
malformed input. Everything else it hands to its hub, one pending per request, answered in the order of the requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from qmpguard.proxy.clients.input import Input
from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.wire.client_messages import (
    COMMAND_NOT_FOUND,
    NOT_NEGOTIATED,
    BadRequest,
    Request,
    error_reply,
    read_enable,
    read_request,
    success_reply,
)
from qmpguard.wire.framing import MAX_REQUEST, Malformed

if TYPE_CHECKING:
    from qmpguard.proxy.sockets.budget import Budget
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.proxy.sockets.stream import Stream
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.record import Peer
    from qmpguard.wire.json import Value
    from qmpguard.wire.qemu_messages import Greeting

#: Requests of one client that are under way before its input waits: with out-of-band one that QEMU executes and eight
#: that wait (monitor/qmp.c: QMP_REQ_QUEUE_LEN_MAX, handle_qmp_command). Without it QEMU reads one at a time and drops
#: what it has not read when the client leaves; there only what changes nothing runs ahead, so nobody can tell.
OUTSTANDING = 9
#: how the names of requests begin that change nothing
QUERY = "query-"
#: Messages of one client that are looked at in one wake-up of the loop, before everybody else gets their turn. QEMU is
#: slower than that; it bounds what the guard answers by itself, some 10 us for junk and 100 us for a refusal.
TURN = 16
#: seconds in which a client can read what is due to it after QEMU has ended
LAST_WORDS = 5.0


class State(Enum):
    """How far a conversation has come."""

    WAITING = "waiting for QEMU"
    NEGOTIATING = "negotiating"
    COMMANDS = "commands"
    ENDING = "ending"  # what is due to the client is still being sent
    CLOSED = "closed"


# the way to a member through its class costs as much as a system call
_COMMANDS, _ENDING, _CLOSED = State.COMMANDS, State.ENDING, State.CLOSED


class Upstream(Protocol):
    """Where a session's requests go."""

    counts: Counters
    budget: Budget

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        ...

    @property
    def is_alive(self) -> bool:
        """Say whether QEMU answers, as far as the heartbeat can tell."""
        ...

    def submit(self, session: Session) -> None:
        """Called when a session has in-band requests to send."""
        ...

    def submit_oob(self, pending: PendingRequest) -> None:
        """Take an out-of-band request, which waits for nothing."""
        ...

    def departed(self, session: Session, reason: str, unsent: list[PendingRequest]) -> None:
        """Called when a session has closed, with those of its requests that were not sent."""
        ...


class Session:
    """One client's conversation on a stream. ``privileged``: the guard's own, whose requests are not judged."""

    def __init__(
        self,
        hub: Upstream,
        stream: Stream,
        peer: Peer,
        *,
        max_request: int = MAX_REQUEST,
        privileged: bool = False,
        since: float = 0.0,
    ) -> None:
        self.hub = hub
        self.stream = stream
        self.peer = peer
        self.since = since  # seconds since the epoch
        self.privileged = privileged
        self.state = State.WAITING
        self.todo: deque[PendingRequest] = deque()  # in-band requests that are not sent yet
        self.holder: PendingRequest | None = (
            None  # the in-band request behind which later ones wait: it is being judged
        )
        self._half_closed = False
        self._max_request = max_request
        self._input = Input(max_request)
        self._oob = False
        self.outstanding = 0  # requests that have no reply yet
        self._oob_taken = self._oob_settled = 0  # out-of-band requests since the beginning
        self._pending_oob: set[PendingRequest] = set()  # those that have no reply yet
        self._pending: deque[PendingRequest] = deque()  # those of them whose replies keep their order
        self._next: PendingRequest | None = None  # the last of them, where it has to wait for all others
        self._pumping = False
        self._wakeup = -1  # the last wake-up of the loop in which messages were looked at, and how many
        self._looked_at = 0
        self._scheduled = False  # there is a turn to come
        self._stalled = False  # nothing is read before one of the requests under way is answered
        self._negotiation: Request | None = None  # that is answered when QEMU's heartbeat is back
        self._timeout: asyncio.TimerHandle | None = None  # while there is no QEMU

    def wait(self, seconds: float) -> None:
        """Close if QEMU has not appeared by then."""
        self.stream.wait(self)
        self._close_after(seconds, "QEMU did not appear")

    def _close_after(self, seconds: float, reason: str) -> None:
        self._wait_no_more()
        self._timeout = asyncio.get_running_loop().call_later(seconds, self.close, reason)

    def _wait_no_more(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()  # it holds the session
            self._timeout = None

    def greet(self, greeting: Greeting) -> None:
        """Send QEMU's greeting and begin to read, as that QEMU reads."""
        if self.state is State.WAITING:
            self.state = State.NEGOTIATING
            self._wait_no_more()
            self._input = Input(self._max_request, skips=greeting.skips)
            self.stream.start(self)
            self.stream.write(greeting.line)

    @property
    def is_closed(self) -> bool:
        """Say whether nothing more can be sent to the client."""
        return self.state is _CLOSED

    @property
    def is_over(self) -> bool:
        """Say whether nothing more is answered."""
        return self.state is _CLOSED or self.state is _ENDING

    @property
    def weight(self) -> int:
        """Bytes held for the client: what it has not read, and what its unanswered requests have become in memory."""
        requests = sum(pending.size + len(pending.reply or b"") for pending in self._pending)
        return self.stream.pending + self._input.held + requests + sum(pending.size for pending in self._pending_oob)

    def hush(self) -> None:
        """Read no more, and close when everything received is answered."""
        self._half_closed = True
        self.stream.pause()
        if self.state is State.ENDING:
            return
        if self.state is State.WAITING:
            self.close("the guard stops")
        elif not (self.outstanding or self._input.busy):
            self._finish_when_sent("the guard stops")

    def proceed(self) -> None:
        """Called when QEMU's heartbeat is back: answer the negotiation that has waited for it."""
        if self._negotiation is not None:
            request, self._negotiation = self._negotiation, None
            self._pumping = True  # what follows is looked at when the negotiation is complete
            try:
                self._negotiate(request)
            finally:
                self._pumping = False
            self._pump()

    def event(self, line: bytes) -> None:
        """Pass an event on, if the client has negotiated."""
        if self.state is _COMMANDS and not self.privileged:
            self.stream.write(line)

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Answer a request: at once if it is the oldest or out-of-band, else when its turn comes."""
        if pending.settled or self.is_over:
            return
        pending.settled = True
        if pending.oob:
            self.outstanding -= 1
            self._oob_settled += 1
            self._pending_oob.discard(pending)
            self.stream.write(reply)
        else:
            pending.reply = reply
        queue = self._pending
        while queue and (head := queue[0]).reply is not None and (head.request or head.behind <= self._oob_settled):
            queue.popleft()
            self.outstanding -= 1
            self.stream.write(head.reply)
        if self._next is not None and queue[0] is self._next:
            self._next = None
            self._submit(queue[0])
        if (self._stalled or self._half_closed) and not self._pumping:
            self._pump()

    def finish(self, reason: str) -> None:
        """Send what is due to the client, then close; nothing more is read or answered, and the client has a limit."""
        if self.is_over:
            return
        self.state = State.ENDING
        self.stream.pause()
        self._input.drop()
        self._close_after(LAST_WORDS, reason)
        self._finish_when_sent(reason)

    def close(self, reason: str) -> None:
        """End the conversation; replies that are still under way will be dropped."""
        if self.state is _CLOSED:
            return
        self.state = State.CLOSED
        self._wait_no_more()
        self._input.drop()
        unsent = [pending for pending in (*self._pending, *self._pending_oob) if not pending.sent]
        self._next = self.holder = None  # each pending holds the session: what has ended is to be free at once
        self.todo.clear()
        self._pending.clear()
        self._pending_oob.clear()
        self.stream.close()
        self.hub.departed(self, reason, unsent)

    # what the stream says

    def received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes from the client, and descriptors that came with them."""
        self.hub.counts.descriptors_received += len(descriptors)
        self._input.feed(data, descriptors)
        self._pump()
        self.hub.budget.grew(len(data))

    def ended(self) -> None:
        """Answer what was received, then close: QEMU does so too when a client has sent its last byte."""
        self._half_closed = True
        self._pump()

    def lost(self, reason: str) -> None:
        """Called when the connection is gone."""
        self.close(reason)

    # from bytes to requests

    def _pump(self) -> None:
        """Read requests as long as there are any, the client has not too many under way, and its turn is not over."""
        self._pumping = True
        intake = self._input
        try:
            while intake.busy and not self._is_full and not self.is_over and self._has_a_turn():
                item = intake.pull()
                if item is None:
                    break
                if isinstance(item, Malformed):
                    self.hub.counts.malformed += 1
                    self._answer(error_reply(item.desc, None))
                else:
                    self._request(item.value)
        finally:
            self._pumping = False
        if not self.is_over:
            self._wait_for_more()

    def _has_a_turn(self) -> bool:
        """Say whether one more message can be looked at before everybody else gets their turn, and count it."""
        wakeup = self.stream.wakeup
        if wakeup != self._wakeup:
            self._wakeup, self._looked_at = wakeup, 0
        self._looked_at += 1
        return self._looked_at <= TURN

    @property
    def _is_full(self) -> bool:
        return self._next is not None or self._negotiation is not None or self.outstanding >= OUTSTANDING

    def _wait_for_more(self) -> None:
        self._stalled = self._is_full
        if self._stalled:
            self.stream.pause()
        elif self._input.busy:
            # a long message, or many: the others get their turn before it is read on
            self.stream.pause()
            self._schedule()
        elif not self._half_closed:
            self.stream.resume()
        elif not self.outstanding:
            self._finish_when_sent("it ended the conversation")

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.stream.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._scheduled = False
        self._pump()

    def _finish_when_sent(self, reason: str) -> None:
        self.stream.flush()
        if self.stream.pending:
            self.stream.when_sent(partial(self.close, reason))
        else:
            self.close(reason)

    def _request(self, value: Value) -> None:
        intake = self._input
        request = read_request(value, oob=self._oob, identity=intake.identity)
        if isinstance(request, BadRequest):
            self._answer(error_reply(request.desc, request.id))
        elif self.state is not _COMMANDS:
            self._negotiate(request)
        elif request.oob:
            self.outstanding += 1
            self._oob_taken += 1
            pending = PendingRequest(self, request, intake.size)
            self._pending_oob.add(pending)
            self.hub.submit_oob(pending)
        else:
            pending = PendingRequest(self, request, intake.size)
            pending.descriptor = intake.hand_over(request)
            runs_ahead = self._oob or self.privileged or not self._pending or request.command.startswith(QUERY)
            self.outstanding += 1
            self._pending.append(pending)
            if runs_ahead:
                self._submit(pending)
            else:
                self._next = pending

    def _submit(self, pending: PendingRequest) -> None:
        self.todo.append(pending)
        self.hub.submit(self)

    def _negotiate(self, request: Request) -> None:
        if request.command != "qmp_capabilities":
            self._answer(error_reply(NOT_NEGOTIATED, request.id, kind=COMMAND_NOT_FOUND))
            return
        if not (self.hub.is_alive or self.privileged):
            self._negotiation = request  # a tool tells by its handshake whether QEMU hangs
            return
        enabled = read_enable(request.arguments, self.hub.offered)
        if isinstance(enabled, str):
            self._answer(error_reply(enabled, request.id))
            return
        if "oob" in enabled:
            self._oob = True
        self._answer(success_reply({}, request.id))
        self.state = State.COMMANDS

    def _answer(self, reply: bytes) -> None:
        """Answer by ourselves, behind the replies that are still outstanding, those out of band as well.

        QEMU executes such a request while it reads, and reports the errors that it finds behind it later.
        """
        pending = PendingRequest(self, None)
        pending.behind = self._oob_taken
        self.outstanding += 1
        self._pending.append(pending)
        self.settle(pending, reply)
