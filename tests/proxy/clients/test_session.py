"""A conversation without sockets, whole and byte by byte: negotiation, order, back-pressure, turns and the end."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpguard.proxy.clients.reading import OUTSTANDING, TURN, State
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.descriptors import Descriptor
from tests.support.conversation import GREETING, NEGOTIATION, WITH_OOB, Conversation

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_NEGOTIATED = "Expecting capabilities negotiation with 'qmp_capabilities'"


def query(number: int, command: str = "query-status") -> bytes:
    return json.dumps({"execute": command, "id": number}).encode()


def oob(number: int) -> bytes:
    return json.dumps({"exec-oob": "query-yank", "id": number}).encode()


def ids(replies: list[bytes]) -> list[Any]:
    return [json.loads(line).get("id") for line in replies]


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_conversation_is_the_same_however_its_bytes_are_cut(step: int) -> None:
    it = Conversation(None)
    it.session.greet(GREETING)
    data = query(1) + NEGOTIATION + query(2) + b"}" + query(3) + b'{"execute": 5, "id": 4}'
    for start in range(0, len(data), step):
        it.receive(data[start : start + step])
    it.answer(0)
    it.answer(1)
    greeting, early, negotiated, second, stray, third, bad = it.replies
    assert greeting == GREETING.line.rstrip()
    assert json.loads(early)["error"]["desc"] == NOT_NEGOTIATED
    assert json.loads(negotiated) == {"return": {}}
    assert ids([second, third]) == [2, 3]
    assert json.loads(stray)["error"]["desc"] == "JSON parse error, expecting value"
    assert json.loads(bad) == {
        "id": 4,
        "error": {"class": "GenericError", "desc": "QMP input member 'execute' must be a string"},
    }
    assert it.hub.malformed == 1
    assert sum(it.hub.outbox.sizes) == len(data)


def test_without_out_of_band_what_changes_something_waits_for_the_reply_before_it() -> None:
    it = Conversation()
    it.receive(query(1) + query(2) + query(3, "stop") + query(4))
    assert it.hub.commands == ["query-status", "query-status"]
    assert not it.transport.reads
    it.answer(0)
    assert it.hub.commands == ["query-status", "query-status"]
    it.answer(1)
    assert it.hub.commands == ["query-status", "query-status", "stop", "query-status"]
    assert it.transport.reads


def test_with_out_of_band_as_many_wait_as_qemu_keeps() -> None:
    it = Conversation(WITH_OOB)
    it.receive(b"".join(query(number, "stop") for number in range(20)))
    assert len(it.hub.sent) == OUTSTANDING == it.session.outstanding
    assert not it.transport.reads
    it.answer(0)
    assert len(it.hub.sent) == OUTSTANDING + 1


def test_replies_keep_the_order_of_requests_but_for_those_out_of_band() -> None:
    it = Conversation(WITH_OOB)
    it.receive(query(1) + oob(2) + query(3) + oob(4))
    it.answer(2)  # the third
    it.answer(3)
    assert ids(it.replies) == [4]
    it.answer(0)
    it.answer(1)
    assert ids(it.replies) == [4, 1, 3, 2]


def test_an_own_answer_waits_for_every_request_before_it() -> None:
    it = Conversation(WITH_OOB)
    it.receive(query(1) + oob(2) + b"}" + oob(3))
    it.answer(2)  # out-of-band, and read behind the stray bracket
    it.answer(0)
    assert ids(it.replies) == [3, 1]
    it.answer(1)
    assert ids(it.replies) == [3, 1, 2, None]


@pytest.mark.parametrize("data", [b"} " * 3000, b'{"execute": 1} ' * 1000])
def test_a_flood_that_is_answered_here_is_looked_at_a_few_messages_a_turn(data: bytes) -> None:
    it = Conversation()
    it.hub.outbox.wakeup += 1
    it.session.data_received(data, [])
    assert len(it.replies) == TURN
    turns = 1
    while it.transport.soon:
        assert len(it.replies) <= turns * TURN
        it.hub.outbox.wakeup += 1
        it.transport.soon.pop(0)()
        turns += 1
    assert len(it.replies) in (1000, 3000)


def test_the_negotiation_waits_for_the_heartbeat() -> None:
    it = Conversation(None)
    it.hub.is_alive = False
    it.session.greet(GREETING)
    it.receive(NEGOTIATION + query(1))
    assert len(it.replies) == 1
    assert not it.hub.sent
    it.hub.is_alive = True
    it.session.on_alive()
    assert json.loads(it.replies[1]) == {"return": {}}
    assert it.hub.commands == ["query-status"]


def test_events_come_behind_the_negotiation_only() -> None:
    it = Conversation(None)
    it.session.greet(GREETING)
    it.session.on_event(b"early")
    it.receive(NEGOTIATION)
    it.session.on_event(b"late")
    assert it.replies[2:] == [b"late"]


def test_who_waits_for_qemu_is_greeted_once() -> None:
    it = Conversation(None)
    it.session.wait()
    assert it.transport.waits
    it.session.greet(GREETING)
    it.session.greet(GREETING)
    assert it.replies == [GREETING.line.rstrip()]


def test_a_half_closed_client_is_answered_and_then_closed() -> None:
    it = Conversation()
    it.receive(query(1) + query(2, "stop"))
    it.session.eof_received()
    it.answer(0)
    assert it.hub.closed == []
    it.answer(1)
    assert it.transport.closed
    assert it.hub.closed == [(CloseReason.ENDED, "", [])]


def test_a_session_that_closes_names_its_requests_that_were_not_sent() -> None:
    it = Conversation()
    it.receive(query(1) + query(2, "stop"))
    it.session.connection_lost(CloseReason.BROKEN, "reset")
    ((reason, detail, unsent),) = it.hub.closed
    assert (reason, detail) == (CloseReason.BROKEN, "reset")
    assert [pending.request.command for pending in unsent] == ["stop"]
    it.session.close(CloseReason.STOPPED)
    assert len(it.hub.closed) == 1
    it.answer(0)
    assert it.replies == []


def test_a_descriptor_that_no_request_has_taken_is_closed_at_the_end_before_all_is_sent() -> None:
    it, descriptor = Conversation(), Descriptor(os.open(os.devnull, os.O_RDONLY))
    it.receive(b"{", [descriptor])
    assert descriptor.fileno() >= 0
    it.transport.pending = 1
    it.session.finish(CloseReason.QEMU_GONE)
    assert (descriptor.fileno() < 0, it.transport.closed) == (True, False)


def test_what_is_due_is_sent_before_the_end_and_nothing_more_is_answered() -> None:
    it = Conversation()
    it.receive(query(1))
    it.transport.pending = 9
    it.session.finish(CloseReason.QEMU_GONE)
    it.session.finish(CloseReason.QEMU_GONE)
    assert it.session.state is State.ENDING
    it.answer(0)
    it.receive(query(2))
    assert (it.replies, len(it.hub.sent)) == ([], 1)
    assert it.transport.on_sent is not None
    it.transport.on_sent()
    assert it.hub.closed[0][0] is CloseReason.QEMU_GONE


@pytest.mark.parametrize("waiting", [False, True])
def test_at_the_guards_stop_nothing_more_is_read(waiting: bool) -> None:
    it = Conversation(None if waiting else NEGOTIATION)
    if not waiting:
        it.receive(query(1))
        it.session.stop_reading()
        assert not it.transport.closed
        it.answer(0)
    else:
        it.session.stop_reading()
    assert it.transport.closed
    it.session.stop_reading()


def test_a_session_weighs_what_is_held_for_its_client() -> None:
    it = Conversation()
    it.receive(query(1) + b'{"execute": "query')
    it.transport.pending = 1000
    assert it.session.weight > 1000 + len(query(1))


MESSAGES = st.lists(st.sampled_from(["query", "stop", "oob", "stray", "bad"]), max_size=12)


@given(MESSAGES, st.randoms(use_true_random=False), st.booleans())
def test_whatever_the_order_of_qemus_replies_the_clients_is_qemus(
    kinds: list[str], chance: Any, with_oob: bool
) -> None:
    """QEMU answers in-band requests in their order, and gives its own answers behind all that it has read before."""
    it = Conversation(WITH_OOB if with_oob else NEGOTIATION)
    texts: dict[str, Callable[[int], bytes]] = {
        "query": query,
        "stop": lambda n: query(n, "stop"),
        "oob": oob,
        "stray": lambda n: b"} ",
        "bad": lambda n: b'{"execute": 1, "id": %d}' % n,
    }
    for number, kind in enumerate(kinds):
        it.receive(texts[kind](number))
    answered: set[int] = set()
    while len(answered) < len(it.hub.sent):
        index = chance.choice([i for i in range(len(it.hub.sent)) if i not in answered])
        answered.add(index)
        it.answer(index)
    numbers = ids(it.replies)
    assert len(numbers) == len(kinds)
    urgent = {n for n, kind in enumerate(kinds) if kind == "oob" and with_oob}
    in_band = [n for n in numbers if n not in urgent and n is not None]
    assert in_band == sorted(in_band)
    for place, number in enumerate(numbers):
        if number is not None and kinds[number] == "bad":
            before = {n for n in urgent if n < number}
            assert before <= set(numbers[:place])
