"""All sessions of one VM: clients come in, wait for QEMU, and leave. The timeouts of sessions are here."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from qmpguard.proxy.clients.session import Session
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.stream import Stream
from qmpguard.proxy.state.counters import NOT_ALLOWED, TOO_MANY
from qmpguard.rate import LogRate
from qmpguard.record import Peer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qmpguard.config import Limits
    from qmpguard.proxy.clients.interfaces import Upstream
    from qmpguard.proxy.clients.pending import Requester
    from qmpguard.proxy.sockets.budget import Budget
    from qmpguard.proxy.sockets.stream import Outbox
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: seconds in which a client can read what is due to it after QEMU has ended
LAST_WORDS = 5.0


class SessionRegistry:
    """The sessions of a VM's clients. ``drained`` is set while there is none.

    Requests go to ``hub``. ``contain`` does something for one session, whose exceptions concern no other.
    """

    def __init__(self, vm: str, limits: Limits, counters: Counters, outbox: Outbox, budget: Budget) -> None:
        self.limits = limits
        self.drained = asyncio.Event()
        self.hub: Upstream
        self.contain: Callable[[Session, Callable[[], None]], None]
        self._vm = vm
        self._counters = counters
        self._outbox = outbox
        self._budget = budget
        self._all: set[Session] = set()
        self._waiting: dict[Session, asyncio.TimerHandle] = {}  # for QEMU
        self._refused = LogRate()

    def watch(self) -> None:
        """Count what the sessions hold as part of the budget."""
        self._budget.watch(self._all)

    def forget(self) -> None:
        """Count it no more."""
        self._budget.forget(self._all)

    @property
    def clients(self) -> list[Session]:
        """The sessions."""
        return list(self._all)

    def attach(self, sock: socket.socket, peer: Peer, greeting: Greeting | None) -> None:
        """Begin a conversation on a connected socket, with QEMU's greeting as soon as there is one."""
        if (refusal := self._refusal(peer)) is not None:
            if (more := self._refused.admit(refusal, time.monotonic())) is not None:
                log.warning("vm=%s client=%s refused: %s%s", self._vm, peer, refusal, more)
            sock.close()
            return
        stream = Stream(sock, self._outbox, limit=self.limits.max_unread)
        size, now = self.limits.max_request, time.time()
        session = Session(self.hub, stream, peer, max_request=size, since=now)
        self._all.add(session)
        self.drained.clear()
        self._counters.clients += 1
        log.info("vm=%s client=%s connected", self._vm, peer)
        if greeting is not None:
            session.greet(greeting)
        else:
            self._wait(session)

    def _refusal(self, peer: Peer) -> str | None:
        """Return why a client cannot come in; None where it can."""
        if len(self._all) >= self.limits.max_clients:
            self._counters.drops[TOO_MANY] += 1
            return f"{self.limits.max_clients} clients already"
        if (reason := self.limits.access.refusal(peer)) is not None:
            self._counters.drops[NOT_ALLOWED] += 1
        return reason

    def _wait(self, session: Session) -> None:
        session.wait()
        loop, seconds = asyncio.get_running_loop(), self.limits.greeting_wait
        self._waiting[session] = loop.call_later(seconds, session.close, CloseReason.QEMU_ABSENT)

    def greet_all(self, greeting: Greeting) -> None:
        """Called when there is a link: greet the sessions that have waited for it."""
        for session in self.clients:
            self._wait_no_more(session)
            session.greet(greeting)

    def finish_all(self) -> None:
        """Close every session as QEMU's death would close them: each is sent first what is due to it."""
        for session in self.clients:
            self._wait_no_more(session)
            self.contain(session, partial(session.finish, CloseReason.QEMU_GONE))
        # a weak set: a session that closes before is to be free at once
        asyncio.get_running_loop().call_later(LAST_WORDS, self._end, WeakSet(self._all))

    def _end(self, sessions: WeakSet[Session]) -> None:
        """Close the sessions of a link that was lost, whose clients have not read what was due to them."""
        for session in tuple(sessions):
            self.contain(session, partial(session.close, CloseReason.QEMU_GONE))

    def on_alive(self) -> None:
        """Called when QEMU's heartbeat is back."""
        with self._outbox:
            for session in self.clients:
                session.on_alive()

    def stop_reading(self) -> None:
        """Read no more from clients; what was received is still answered."""
        for session in self.clients:
            session.stop_reading()
        self._note_drained()

    def close_all(self, reason: CloseReason) -> None:
        """Close every session."""
        for session in self.clients:
            session.close(reason)

    def remove(self, session: Requester, reason: CloseReason, detail: str) -> None:
        """Called when a session has closed."""
        assert isinstance(session, Session)
        self._all.discard(session)
        self._wait_no_more(session)
        self._counters.on_client_closed(reason)
        log.info("vm=%s client=%s closed reason=%r", self._vm, session.peer, detail or reason.value)
        self._note_drained()

    def _wait_no_more(self, session: Session) -> None:
        if (timer := self._waiting.pop(session, None)) is not None:
            timer.cancel()  # it holds the session

    def _note_drained(self) -> None:
        if not self._all:
            self.drained.set()
