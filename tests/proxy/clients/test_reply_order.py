"""The order of replies by itself: in-band in order, out-of-band at once, own answers behind all that came before."""

from __future__ import annotations

from typing import Any

from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.proxy.clients.reply_order import OwnAnswer, ReplyOrder
from qmpguard.wire.client_messages import Request


def request(*, oob: bool = False, size: int = 0) -> PendingRequest:
    session: Any = None
    return PendingRequest(session, Request("query-status", None, b"1", oob), size)


def test_in_band_replies_wait_for_earlier_ones() -> None:
    written: list[bytes] = []
    order = ReplyOrder(written.append)
    first, second = request(), request()
    assert order.add(first)
    assert not order.add(second)
    order.settle(second, b"2")
    assert (first.settled, second.settled) == (False, True)
    assert (written, order.outstanding, order.oldest) == ([], 2, first)
    order.settle(first, b"1")
    assert (written, order.outstanding, order.oldest) == ([b"1", b"2"], 0, None)


def test_an_own_answer_waits_for_each_request_out_of_band_before_it_not_for_as_many() -> None:
    written: list[bytes] = []
    order = ReplyOrder(written.append)
    before, behind = request(oob=True), request(oob=True)
    order.add(before)
    order.answer(b"own")
    order.add(behind)
    assert isinstance(order.oldest, OwnAnswer)
    order.settle(behind, b"behind")
    assert written == [b"behind"]
    order.settle(before, b"before")
    assert written == [b"behind", b"before", b"own"]


def test_what_was_not_sent_is_returned_at_the_end() -> None:
    order = ReplyOrder(lambda _: None)
    sent, unsent, urgent = request(size=10), request(size=20), request(oob=True, size=30)
    sent.sent = True
    for pending in (sent, unsent, urgent):
        order.add(pending)
    order.answer(b"own")
    assert order.size == 10 + 20 + 30 + 3 + len(b"own")  # and each id
    assert order.clear() == [unsent, urgent]
    assert order.size == 0
