"""Requests on their way up: whose turn it is, what the window has room for, and the one way for descriptors."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from qmpguard.proxy.passing import TAKES_DESCRIPTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.link import Link
    from qmpguard.proxy.session import Session
    from qmpguard.proxy.slot import Slot


class Dealer:
    """Deals a link's window: the guard's own requests first, then what was judged, then the clients in turn.

    Out-of-band requests need no place in the window, but take turns with the others, and wait where QEMU does not read.

    ``intercept`` is shown every request of a client, and says whether it takes it over.
    """

    def __init__(self, intercept: Callable[[Slot], bool]) -> None:
        self.link: Link | None = None
        self._intercept = intercept
        self._turns: deque[Session] = deque()
        self._own_turns: deque[Session] = deque()
        self._urgent: deque[Slot] = deque()  # out-of-band
        self._was_urgent = False  # the last one sent
        self._dealing = False
        self._express: deque[Slot] = deque()  # judged, or waiting for a descriptor's way: first in line
        self._carrying: Slot | None = None  # the one request with a descriptor in flight
        self._behind: deque[Slot] = deque()  # more of that kind

    def submit(self, session: Session) -> None:
        """Give a session with requests to send its place in the turns."""
        if session.held or session.in_turn or not session.todo:
            return
        session.in_turn = True
        (self._own_turns if session.privileged else self._turns).append(session)
        self.deal()

    def submit_oob(self, slot: Slot) -> None:
        """Send an out-of-band request past the window, unless it is taken over."""
        if self.link is None:
            return
        if slot.session.privileged:
            self.link.send(slot)  # it asks whether QEMU is alive, and there is one of them
        elif not self._intercept(slot):
            self._urgent.append(slot)
            self.deal()

    def submit_judged(self, slot: Slot) -> None:
        """Send a request that may pass before all that still waits for its turn."""
        self._express.append(slot)
        self.deal()

    def release(self, session: Session) -> None:
        """Let a session's later requests follow."""
        session.held = False
        self.submit(session)

    def answered(self, slot: Slot) -> None:
        """Take notice that the window has room again."""
        if slot is self._carrying:
            self._carrying = None
            if self._behind:
                self._express.appendleft(self._behind.popleft())
        if self._express or self._turns or self._own_turns or self._urgent:
            self.deal()

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        self.link = None
        for queue in (self._urgent, self._express, self._behind):
            for slot in queue:
                slot.discard()
            queue.clear()
        for turns in (self._turns, self._own_turns):
            for session in turns:
                session.in_turn = False
            turns.clear()
        self._carrying = None

    def departed(self, session: Session) -> None:
        """Forget what a session that has closed was waiting for."""
        if session.in_turn:
            session.in_turn = False
            (self._own_turns if session.privileged else self._turns).remove(session)
        if self._urgent:
            self._urgent = deque(slot for slot in self._urgent if slot.session is not session)

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
            link.send(self._urgent.popleft())
        elif ready:
            self._was_urgent = False
            if self._express:
                self._send(self._express.popleft())
            else:
                self._serve(self._turns)
        else:
            if (self._urgent or self._express or self._turns) and link.is_behind:
                link.when_sent(self.deal)
            return False
        return True

    def _serve(self, turns: deque[Session]) -> None:
        """Send one request of the session whose turn it is, and put it behind the others if it has more."""
        session = turns.popleft()
        session.in_turn = False
        if not session.todo:
            return
        slot = session.todo.popleft()
        if session.privileged or not self._intercept(slot):
            self._send(slot)
        if session.todo and not session.held and not session.in_turn:
            session.in_turn = True
            turns.append(session)

    def _send(self, slot: Slot) -> None:
        link, request = self.link, slot.request
        assert link is not None
        assert request is not None
        if slot.session.is_closed:
            # it left while this waited for room: what is not sent yet is dropped
            slot.discard()
            return
        if request.command in TAKES_DESCRIPTOR:
            if self._carrying is not None:
                # QEMU keeps one batch of descriptors: a second one on its way would push the first out
                slot.session.held = True
                self._behind.append(slot)
                return
            self._carrying = slot
        link.send(slot)
        if slot.session.held:
            self.release(slot.session)
