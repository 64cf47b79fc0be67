"""The order of requests on their way to QEMU: whose turn it is, and what there is room for. The hub pulls from it.

Queues, in the order in which `next` looks at them:

    _own_urgent   out-of-band requests of the guard's own session: the heartbeat, one at a time
    _own_turns    the guard's own session, where it has in-band requests
    _urgent       out-of-band requests of clients; they need no room in the window
    _cleared      in-band requests that may be sent: they were judged, or waited for the way of descriptors
    _turns        sessions with in-band requests to send, each one request a turn

Invariants:

* The window. QEMU stops reading, out-of-band requests as well, when eight in-band requests wait (monitor/qmp.c:
  QMP_REQ_QUEUE_LEN_MAX). So at most `WINDOW` are in flight, and of these at most `CLIENT_WINDOW` are clients': the
  guard can always ask.
* A session is in ``_turns`` only if it has something to send and no ``holder``. `hold` takes it out and `release` puts
  it back, so later requests of a client never overtake one that is being judged.
* Out-of-band and in-band requests of clients take turns (``_was_urgent``), so neither kind starves the other.
* Where QEMU leaves much unread (``blocked``), nothing of clients is sent; the guard's own questions are.
* QEMU keeps one batch of descriptors, and a second batch on its way would push the first out (chardev/char-socket.c:
  tcp_chr_recv). So one request with a descriptor is in flight (``_carrying``), and others wait in ``_behind``.
* Every queue gives up any of its entries in one step, however long it is: clients may leave by the thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from qmpguard.proxy.clients.fd_names import TAKES_DESCRIPTOR

if TYPE_CHECKING:
    from qmpguard.proxy.clients.pending import PendingRequest, Requester

#: in-band requests in flight
WINDOW = 7
#: of these, those of clients; the last one is the guard's own
CLIENT_WINDOW = 6


class Scheduler:
    """Deals out one link's window. ``blocked``: no request of a client is to be sent, since QEMU does not read."""

    def __init__(self) -> None:
        self.blocked = False
        self._in_band = 0  # in flight
        self._own_urgent: OrderedDict[PendingRequest, None] = OrderedDict()
        self._own_turns: OrderedDict[Requester, None] = OrderedDict()
        self._urgent: OrderedDict[PendingRequest, None] = OrderedDict()
        self._cleared: OrderedDict[PendingRequest, None] = OrderedDict()
        self._turns: OrderedDict[Requester, None] = OrderedDict()
        self._was_urgent = False  # the last request of a client
        self._carrying: PendingRequest | None = None
        self._behind: OrderedDict[PendingRequest, None] = OrderedDict()

    def submit(self, session: Requester) -> None:
        """Give a session with requests to send its place in the turns."""
        if session.holder is None and session.todo:
            (self._own_turns if session.privileged else self._turns)[session] = None

    def submit_oob(self, pending: PendingRequest) -> None:
        """Take an out-of-band request."""
        queue = self._own_urgent if pending.session.privileged else self._urgent
        queue[pending] = None

    def submit_cleared(self, pending: PendingRequest) -> None:
        """Take a request that was judged and may pass; it is sent before all that still wait for their turn."""
        queue = self._urgent if pending.oob else self._cleared
        queue[pending] = None

    def next(self) -> PendingRequest | None:
        """Return the request whose turn it is; None where there is none, or no room. It is in no queue any more."""
        room = self._in_band < CLIENT_WINDOW and not self.blocked
        ready = room and (self._cleared or self._turns)
        if self._own_urgent:
            return self._own_urgent.popitem(last=False)[0]
        if self._own_turns and self._in_band < WINDOW:
            return _next_of(self._own_turns)
        if self._urgent and not self.blocked and not (ready and self._was_urgent):
            self._was_urgent = True
            return self._urgent.popitem(last=False)[0]
        if ready:
            self._was_urgent = False
            return self._cleared.popitem(last=False)[0] if self._cleared else _next_of(self._turns)
        return None

    def hold(self, pending: PendingRequest) -> None:
        """Keep later requests of the same client behind this one until `release` or `admit`."""
        pending.session.holder = pending
        self._turns_of(pending.session).pop(pending.session, None)

    def release(self, pending: PendingRequest) -> None:
        """Let the requests of the client follow that wait behind this one, if it holds them up."""
        if pending.session.holder is pending:
            pending.session.holder = None
            self.submit(pending.session)

    def admit(self, pending: PendingRequest) -> bool:
        """Give a request its place in the window and return True: it is to be sent now.

        False: it brings a descriptor and another one is in flight; it comes out of `next` again after that.
        """
        if pending.request.command in TAKES_DESCRIPTOR:
            if self._carrying is not None:
                self.hold(pending)
                self._behind[pending] = None
                return False
            self._carrying = pending
        self._in_band += not pending.oob
        if pending.session.holder is pending:
            self.release(pending)
        return True

    def finish(self, pending: PendingRequest) -> bool:
        """Take a request's place in the window back: QEMU has answered it, or it could not be sent.

        Return whether other requests wait.
        """
        self._in_band -= not pending.oob
        if pending is self._carrying:
            self._carrying = None
            if self._behind:
                following, _ = self._behind.popitem(last=False)
                self._cleared[following] = None
                self._cleared.move_to_end(following, last=False)
        return bool(self._turns or self._cleared or self._urgent or self._own_turns or self._own_urgent)

    def on_session_closed(self, session: Requester, unsent: list[PendingRequest]) -> None:
        """Forget a session that has closed, and its requests that were not sent."""
        self._turns_of(session).pop(session, None)
        for pending in unsent:
            for queue in (self._own_urgent, self._urgent, self._cleared, self._behind):
                queue.pop(pending, None)
            pending.discard()

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        self.blocked, self._in_band, self._carrying = False, 0, None
        for queue in (self._own_urgent, self._urgent, self._cleared, self._behind):
            requests = tuple(queue)
            queue.clear()
            for pending in requests:
                pending.discard()
        self._turns.clear()
        self._own_turns.clear()

    def _turns_of(self, session: Requester) -> OrderedDict[Requester, None]:
        return self._own_turns if session.privileged else self._turns


def _next_of(turns: OrderedDict[Requester, None]) -> PendingRequest:
    """Take the next request of the session whose turn it is, and put the session behind the others if it has more."""
    session, _ = turns.popitem(last=False)
    pending = session.todo.popleft()
    if session.todo:
        turns[session] = None
    return pending
