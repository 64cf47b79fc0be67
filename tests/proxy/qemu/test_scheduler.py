"""The scheduler by itself: turns, the window, out-of-band, descriptors, and clients that leave."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpguard.proxy.clients.pending import Outcome, PendingRequest, Unanswered
from qmpguard.proxy.qemu.scheduler import CLIENT_WINDOW, WINDOW, Scheduler
from qmpguard.record import Peer
from qmpguard.wire.client_messages import Request

if TYPE_CHECKING:
    from qmpguard.proxy.closing import CloseReason


class Asker:
    """A session with requests to send."""

    is_closed = False

    def __init__(self, name: str, *, privileged: bool = False) -> None:
        self.name = name
        self.peer = Peer(1)
        self.privileged = privileged
        self.todo: deque[PendingRequest] = deque()
        self.holder: PendingRequest | None = None

    def ask(self, number: int, command: str = "query", *, oob: bool = False) -> PendingRequest:
        pending = PendingRequest(self, Request(command, None, b"%d" % number, oob))
        if not oob:
            self.todo.append(pending)
        return pending

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Nothing is settled here."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """Nothing is closed here."""


def drained(scheduler: Scheduler) -> list[str]:
    """Send all that has its turn; each as its session's name and its number."""
    sent = []
    while (pending := scheduler.next()) is not None:
        if scheduler.admit(pending):
            sent.append(name_of(pending))
    return sent


def name_of(pending: PendingRequest) -> str:
    session: Any = pending.session
    return f"{session.name}{(pending.id or b'').decode()}"


def test_sessions_take_turns_within_the_window() -> None:
    scheduler, a, b = Scheduler(), Asker("a"), Asker("b")
    requests = [a.ask(n) for n in range(9)]
    scheduler.submit(a)
    b.ask(1)
    scheduler.submit(b)
    assert drained(scheduler) == ["a0", "b1", "a1", "a2", "a3", "a4"]
    assert scheduler.finish(requests[0])
    assert drained(scheduler) == ["a5"]


def test_the_guards_own_requests_have_a_place_of_their_own_and_come_first() -> None:
    scheduler, client, own = Scheduler(), Asker("c"), Asker("own", privileged=True)
    for number in range(CLIENT_WINDOW + 1):
        client.ask(number)
    scheduler.submit(client)
    own.ask(1)
    scheduler.submit(own)
    scheduler.blocked = True
    assert drained(scheduler) == ["own1"]
    scheduler.blocked = False
    assert len(drained(scheduler)) == CLIENT_WINDOW - 1
    own.ask(2)
    scheduler.submit(own)
    assert drained(scheduler) == ["own2"]
    own.ask(3)
    scheduler.submit(own)
    assert drained(scheduler) == [], f"{WINDOW} are in flight"
    scheduler.submit_oob(own.ask(4, oob=True))
    assert drained(scheduler) == ["own4"]


def test_out_of_band_and_in_band_take_turns_and_neither_needs_the_others_room() -> None:
    scheduler, a = Scheduler(), Asker("a")
    for number in range(8):
        a.ask(number)
    scheduler.submit(a)
    for number in range(10, 14):
        scheduler.submit_oob(a.ask(number, oob=True))
    assert drained(scheduler) == ["a10", "a0", "a11", "a1", "a12", "a2", "a13", "a3", "a4", "a5"]
    scheduler.submit_oob(a.ask(20, oob=True))
    assert drained(scheduler) == ["a20"]


def test_later_requests_wait_behind_one_that_is_being_judged() -> None:
    scheduler, a = Scheduler(), Asker("a")
    judged = a.ask(0)
    a.ask(1)
    scheduler.submit(a)
    assert scheduler.next() is judged
    scheduler.hold(judged)
    scheduler.submit(a)
    assert drained(scheduler) == []
    scheduler.submit_cleared(judged)
    assert drained(scheduler) == ["a0", "a1"]
    refused = a.ask(2)
    a.ask(3)
    scheduler.submit(a)
    assert scheduler.next() is refused
    scheduler.hold(refused)
    scheduler.release(refused)
    assert drained(scheduler) == ["a3"]


def test_one_descriptor_is_on_its_way_at_a_time_and_those_behind_it_keep_their_order() -> None:
    scheduler, a, b, c = Scheduler(), Asker("a"), Asker("b"), Asker("c")
    first, second, third = a.ask(1, "getfd"), b.ask(2, "add-fd"), c.ask(3, "getfd")
    c.ask(4)
    for each in (a, b, c):
        scheduler.submit(each)
    assert drained(scheduler) == ["a1"]
    scheduler.finish(first)
    assert drained(scheduler) == ["b2"]
    scheduler.finish(second)
    assert drained(scheduler) == ["c3", "c4"]
    assert not scheduler.finish(third)


def test_a_request_that_could_not_be_sent_gives_its_place_back() -> None:
    scheduler, a = Scheduler(), Asker("a")
    first = a.ask(1, "getfd")
    scheduler.submit(a)
    assert drained(scheduler) == ["a1"]
    scheduler.finish(first)
    a.ask(2, "getfd")
    scheduler.submit(a)
    assert drained(scheduler) == ["a2"]


@pytest.mark.parametrize("all_of_them", [False, True])
def test_what_will_never_be_sent_is_told_so(all_of_them: bool) -> None:
    scheduler, a = Scheduler(), Asker("a")
    outcomes: list[Outcome] = []
    carrying, waiting, urgent, cleared = a.ask(0, "getfd"), a.ask(1, "getfd"), a.ask(2, oob=True), a.ask(3)
    scheduler.submit(a)
    assert drained(scheduler) == ["a0"]
    a.todo.clear()
    scheduler.blocked = True
    scheduler.submit_oob(urgent)
    scheduler.submit_cleared(cleared)
    for pending in (waiting, urgent, cleared):
        pending.on_outcome = outcomes.append
    if all_of_them:
        scheduler.clear()
    else:
        scheduler.on_session_closed(a, [waiting, urgent, cleared])
        scheduler.blocked = False
    assert outcomes == [Unanswered.NOT_SENT] * 3
    assert not scheduler.finish(carrying) or all_of_them
    assert drained(scheduler) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_each_clients_requests_keep_their_order_and_none_is_lost(asked: list[tuple[int, bool]], chance: Any) -> None:
    scheduler = Scheduler()
    sessions = [Asker(chr(97 + n)) for n in range(5)]
    in_flight: list[PendingRequest] = []
    sent: list[PendingRequest] = []

    def send_all() -> None:
        while (pending := scheduler.next()) is not None:
            if scheduler.admit(pending):
                in_flight.append(pending)
                sent.append(pending)
            assert sum(not each.oob for each in in_flight) <= CLIENT_WINDOW
            assert sum(each.request.command == "getfd" for each in in_flight) <= 1

    for number, (who, descriptor) in enumerate(asked):
        sessions[who].ask(number, "getfd" if descriptor else "query")
        scheduler.submit(sessions[who])
        send_all()
        if in_flight and chance.random() < 0.5:
            scheduler.finish(in_flight.pop(chance.randrange(len(in_flight))))
            send_all()
    while in_flight:
        scheduler.finish(in_flight.pop(chance.randrange(len(in_flight))))
        send_all()
    assert len(sent) == len(asked)
    for session in sessions:
        numbers = [int(pending.id or b"") for pending in sent if pending.session is session]
        assert numbers == sorted(numbers)
