"""The sessions of a VM: who comes in, who waits for QEMU and how long, who leaves, and what is counted."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qmpguard.config import Limits
from qmpguard.proxy.clients import registry
from qmpguard.proxy.clients.registry import SessionRegistry
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.proxy.sockets.stream import Outbox
from qmpguard.proxy.state.counters import Counters
from qmpguard.record import Peer
from tests.support.conversation import GREETING, Hub
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Telling(Hub):
    """A hub that tells the registry of closed sessions, as the real one does."""

    def __init__(self, sessions: SessionRegistry) -> None:
        super().__init__()
        self.sessions = sessions

    def on_session_closed(self, session: Any, reason: CloseReason, detail: str, unsent: Any) -> None:
        self.sessions.remove(session, reason, detail)


def made(**limits: Any) -> tuple[SessionRegistry, Counters]:
    counters = Counters()
    sessions = SessionRegistry("vm", Limits(**limits), counters, Outbox(lambda _: None, print), Budget())
    sessions.hub = Telling(sessions)
    sessions.contain = lambda _, work: work()
    return sessions, counters


@contextmanager
def client(sessions: SessionRegistry, number: int = 1, **options: Any) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    sessions.attach(theirs, Peer(number), options.pop("greeting", GREETING), **options)
    with ours:
        yield ours


async def test_a_client_is_greeted_counted_and_forgotten() -> None:
    sessions, counters = made()
    with client(sessions) as sock:
        assert sock.recv(4096) == GREETING.line
        assert (len(sessions.clients), counters.clients, sessions.drained.is_set()) == (1, 1, False)
    await eventually(sessions.drained.is_set)
    assert (sessions.clients, dict(counters.drops)) == ([], {})


async def test_no_more_come_in_than_the_limit_allows() -> None:
    sessions, counters = made(max_clients=1)
    with client(sessions), client(sessions, 2) as second:
        assert second.recv(1) == b""
        assert dict(counters.drops) == {"too_many_clients": 1}
        assert len(sessions.clients) == 1
        sessions.close_all(CloseReason.STOPPED)
        assert sessions.clients == []


async def test_who_waits_for_qemu_is_greeted_when_it_comes_or_closed_after_a_while() -> None:
    sessions, counters = made(greeting_wait=0.05)
    with client(sessions, greeting=None) as sock:
        sessions.greet_all(GREETING)
        assert sock.recv(4096) == GREETING.line
        await asyncio.sleep(0.1)
        assert len(sessions.clients) == 1
        sessions.close_all(CloseReason.STOPPED)
    with client(sessions, greeting=None) as sock:
        await eventually(lambda: not sessions.clients)
        assert dict(counters.drops) == {"qemu_absent": 1}


async def test_a_session_that_has_closed_is_free_at_once_though_timeouts_are_pending() -> None:
    sessions, _ = made()
    gc.collect()
    gc.disable()
    try:
        with client(sessions, greeting=None):
            held = weakref.ref(sessions.clients[0])
            sessions.finish_all()
            assert held() is None
    finally:
        gc.enable()


async def test_a_client_that_does_not_read_what_is_due_to_it_is_closed_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "LAST_WORDS", 0.05)
    sessions, counters = made()
    with client(sessions):
        (session,) = sessions.clients
        session.stream.write(b"x" * (4 << 20))
        sessions.finish_all()
        assert len(sessions.clients) == 1
        await eventually(lambda: not sessions.clients)
    assert dict(counters.drops) == {"qemu_gone": 1}


async def test_at_the_stop_it_is_known_when_the_last_client_has_left() -> None:
    sessions, _ = made()
    sessions.watch()
    sessions.stop_reading()
    assert sessions.drained.is_set()
    with client(sessions):
        assert not sessions.drained.is_set()
        sessions.on_alive()
        sessions.stop_reading()
        assert sessions.drained.is_set()
    sessions.forget()
