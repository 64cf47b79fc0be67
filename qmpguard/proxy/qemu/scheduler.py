"""Requests on their way up: whose turn it is, what the window has room for, and the one way for descriptors."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from qmpguard.proxy.clients.fd_names import TAKES_DESCRIPTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.proxy.clients.session import Session
    from qmpguard.proxy.qemu.link import Link


class Scheduler:
    """Deals a link's window: the guard's own requests first, then what was judged, then the clients in turn.

    Out-of-band requests need no place in the window, but take turns with the others, and wait where QEMU does not read.
    Each queue gives up any of its entries in one step, however long it is: clients may leave by the thousand.

    ``intercept`` is shown every request of a client, and says whether it takes it over. ``failed`` is told of an
    exception that kept a request from being sent; nothing of the request was sent then.
    """

    def __init__(
        self, intercept: Callable[[PendingRequest], bool], failed: Callable[[PendingRequest, Exception], None]
    ) -> None:
        self.link: Link | None = None
        self._intercept = intercept
        self._failed = failed
        self._turns: OrderedDict[Session, None] = OrderedDict()
        self._own_turns: OrderedDict[Session, None] = OrderedDict()
        self._urgent: OrderedDict[PendingRequest, None] = OrderedDict()  # out-of-band
        self._was_urgent = False  # the last one sent
        self._dealing = False
        self._express: OrderedDict[PendingRequest, None] = OrderedDict()  # judged, or waited for a descriptor's way
        self._carrying: PendingRequest | None = None  # the one request with a descriptor in flight
        self._behind: OrderedDict[PendingRequest, None] = OrderedDict()  # more of that kind

    def submit(self, session: Session) -> None:
        """Give a session with requests to send its place in the turns."""
        if session.holder is None and session.todo:
            self._turns_of(session).setdefault(session)
            self.deal()

    def submit_oob(self, pending: PendingRequest) -> None:
        """Send an out-of-band request past the window, unless it is taken over."""
        if self.link is None:
            return
        if pending.session.privileged:
            self._put(self.link, pending)  # it asks whether QEMU is alive, and there is one of them
        elif not self._intercept(pending):
            self._urgent[pending] = None
            self.deal()

    def submit_judged(self, pending: PendingRequest) -> None:
        """Send a request that may pass before all that still waits for its turn."""
        self._express[pending] = None
        self.deal()

    def release(self, pending: PendingRequest) -> None:
        """Let the requests follow that wait behind this one of the same session, if it holds them up."""
        if pending.session.holder is pending:
            pending.session.holder = None
            self.submit(pending.session)

    def answered(self, pending: PendingRequest) -> None:
        """Called when QEMU has answered a request: the window has room again."""
        self._free_the_way(pending)
        if self._express or self._turns or self._own_turns or self._urgent:
            self.deal()

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        self.link = self._carrying = None
        for queue in (self._urgent, self._express, self._behind):
            requests = tuple(queue)
            queue.clear()
            for pending in requests:
                pending.discard()
        self._turns.clear()
        self._own_turns.clear()

    def departed(self, session: Session, unsent: list[PendingRequest]) -> None:
        """Forget a session that has closed, and its requests that were not sent yet."""
        self._turns_of(session).pop(session, None)
        for pending in unsent:
            for queue in (self._urgent, self._express, self._behind):
                queue.pop(pending, None)
            pending.discard()

    def deal(self) -> None:
        """Send what there is room for. Who comes here meanwhile need not wait: everything is looked at again."""
        if self._dealing:
            return
        self._dealing = True
        try:
            while (link := self.link) is not None and self._deal(link):
                pass
        finally:
            self._dealing = False

    def _deal(self, link: Link) -> bool:
        """Send the next request; False if there is none, or no room. Out-of-band and in-band take turns."""
        ready = (self._express or self._turns) and link.has_room(privileged=False)
        if self._own_turns and link.has_room(privileged=True):
            self._serve(self._own_turns)
        elif self._urgent and not (ready and self._was_urgent) and not link.is_behind:
            self._was_urgent = True
            self._put(link, self._urgent.popitem(last=False)[0])
        elif ready:
            self._was_urgent = False
            if self._express:
                self._send(self._express.popitem(last=False)[0])
            else:
                self._serve(self._turns)
        else:
            if (self._urgent or self._express or self._turns) and link.is_behind:
                link.when_sent(self.deal)
            return False
        return True

    def _turns_of(self, session: Session) -> OrderedDict[Session, None]:
        return self._own_turns if session.privileged else self._turns

    def _serve(self, turns: OrderedDict[Session, None]) -> None:
        """Send one request of the session whose turn it is, and put it behind the others if it has more."""
        session, _ = turns.popitem(last=False)
        if not session.todo:
            return
        pending = session.todo.popleft()
        if session.privileged or not self._intercept(pending):
            self._send(pending)
        if session.todo and session.holder is None:
            turns.setdefault(session)

    def _send(self, pending: PendingRequest) -> None:
        link, request = self.link, pending.request
        assert link is not None
        assert request is not None
        if pending.session.is_closed:
            # it left while this waited for its verdict: what is not sent yet is dropped
            pending.discard()
            return
        if request.command in TAKES_DESCRIPTOR:
            if self._carrying is not None:
                # QEMU keeps one batch of descriptors: a second one on its way would push the first out
                pending.session.holder = pending
                self._behind[pending] = None
                return
            self._carrying = pending
        self._put(link, pending)
        self.release(pending)

    def _put(self, link: Link, pending: PendingRequest) -> None:
        """Give a request to the link; one that cannot be encoded concerns its session, and no other."""
        try:
            link.send(pending)
        except Exception as error:  # noqa: BLE001 -- whatever it is: nothing of the request was sent
            pending.discard()
            self._free_the_way(pending)
            self._failed(pending, error)

    def _free_the_way(self, pending: PendingRequest) -> None:
        """Let the next request with a descriptor follow the one that has been answered."""
        if pending is self._carrying:
            self._carrying = None
            if self._behind:
                following, _ = self._behind.popitem(last=False)
                self._express[following] = None
                self._express.move_to_end(following, last=False)
