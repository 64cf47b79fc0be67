"""A link without a socket, whole and byte by byte: numbers, replies, events, and what ends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.proxy.clients.pending import LONG, Outcome, PendingRequest, Unanswered
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu.link import MAX_BEHIND, Link
from qmpguard.wire.client_messages import Request
from tests.support.conversation import GREETING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.wire.qemu_messages import QemuEvent


class Transport:
    """QEMU's socket."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.pending = 0
        self.closed = self.paused = False
        self.on_sent: Callable[[], None] | None = None

    def write(self, data: bytes, descriptor: Descriptor | None = None) -> None:
        self.written.append(data)

    def write_long(self, pieces: Iterator[bytes], size: int, descriptor: Descriptor | None = None) -> None:
        self.written.append(b"".join(pieces))

    def when_sent(self, callback: Callable[[], None]) -> None:
        self.on_sent = callback

    def pause(self) -> None:
        self.paused = True

    def close(self) -> None:
        self.closed = True


class Owner:
    """Keeps what the link tells."""

    name = "vm"

    def __init__(self) -> None:
        self.replies: list[tuple[PendingRequest, bytes]] = []
        self.events: list[str] = []
        self.lost: list[str] = []

    def on_reply(self, pending: PendingRequest, message: bytes, reply: bytes) -> None:
        self.replies.append((pending, reply))

    def on_event(self, event: QemuEvent) -> None:
        self.events.append(event.name)

    def on_link_lost(self, reason: str) -> None:
        self.lost.append(reason)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def link(transport: Transport, owner: Owner) -> Link:
    return Link(transport, owner, GREETING, 41)


def request(identity: bytes | None = b'"mine"', *, oob: bool = False, size: int = 0) -> PendingRequest:
    session: Any = None
    return PendingRequest(session, Request("query-status", None, identity, oob), size)


def numbered(data: bytes) -> int:
    number: int = json.loads(data)["id"]
    return number


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_replies_go_back_under_the_clients_own_id(link: Link, transport: Transport, owner: Owner, step: int) -> None:
    one, two = request(), request(None)
    link.send(one)
    assert (one.sent, two.sent) == (True, False)
    link.send(two)
    assert transport.written == [b'{"execute":"query-status","id":0}', b'{"execute":"query-status","id":1}']
    data = b'{"event": "STOP"}\r\n{"return": {}, "id": 0}\r\n{"id": 1, "error": {"class": "X", "desc": ""}}\r\n'
    for start in range(0, len(data), step):
        link.data_received(data[start : start + step], [])
    assert owner.events == ["STOP"]
    assert owner.replies == [
        (one, b'{"return": {}, "id": "mine"}\r\n'),
        (two, b'{"error": {"class": "X", "desc": ""}}\r\n'),
    ]
    assert (link.is_idle, link.number) == (True, 41)


def test_in_band_requests_have_one_digit_and_out_of_band_ones_a_number_of_their_own(
    link: Link, transport: Transport, owner: Owner
) -> None:
    for turn in range(25):
        link.send(request())
        link.send(request(oob=True))
        assert [numbered(data) for data in transport.written[-2:]] == [turn % 10, 42 + turn]
        for number in (42 + turn, turn % 10):
            link.data_received(b'{"return": {}, "id": %d}\r\n' % number, [])
    assert (len(owner.replies), owner.lost, link.number) == (50, [], 66)


@pytest.mark.parametrize("number", [0, 4711])
def test_an_out_of_band_number_is_never_a_digit(transport: Transport, owner: Owner, number: int) -> None:
    Link(transport, owner, GREETING, number).send(request(oob=True))
    assert numbered(transport.written[0]) == max(10, number + 1)


def test_a_digit_that_is_in_flight_is_not_given_again(link: Link, transport: Transport, owner: Owner) -> None:
    first = request(b'"first"')
    link.send(first)
    for turn in range(1, 30):
        link.send(request())
        number = numbered(transport.written[-1])
        assert number in range(1, 10)
        link.data_received(b'{"return": {}, "id": %d}\r\n' % number, [])
        assert link.skipped == "query-status", turn
    link.data_received(b'{"return": {}, "id": 0}\r\n', [])
    assert owner.replies[-1] == (first, b'{"return": {}, "id": "first"}\r\n')
    assert (link.skipped, link.is_idle, owner.lost) == (None, True, [])
    link.send(request())
    while (number := numbered(transport.written[-1])) != 0:
        link.data_received(b'{"return": {}, "id": %d}\r\n' % number, [])
        link.send(request())
    assert link.skipped is None, "the digit is another request's now"


@pytest.mark.parametrize("oob", [False, True])
def test_a_second_reply_ends_the_link(link: Link, owner: Owner, transport: Transport, oob: bool) -> None:
    for _ in range(3):
        link.send(request(oob=oob))
    first, second, _ = map(numbered, transport.written)
    for number in (first, second, first):
        link.data_received(b'{"return": {}, "id": %d}\r\n' % number, [])
    assert owner.lost == [f"QEMU answered a request that was not sent: id {first}"]
    assert len(owner.replies) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"return": {}, "id": 4711}\r\n', "QEMU answered a request that was not sent: id 4711"),
        (b'{"error": {"class": "GenericError", "desc": "no JSON"}}\r\n', "QEMU could not read a request"),
        (b"hello\r\n", "QEMU sent what is no QMP: Expecting value: line 1 column 1 (char 0)"),
        (b"{" + b"x" * (65 << 20), "a message of QEMU is longer than 67108864 bytes"),
    ],
)
def test_what_cannot_be_ends_the_link_once(
    link: Link, transport: Transport, owner: Owner, data: bytes, reason: str
) -> None:
    outcomes: list[Outcome] = []
    pending = request()
    pending.on_outcome = outcomes.append
    link.send(pending)
    link.data_received(data + b'\r\n{"event": "STOP"}\r\n', [])
    link.eof_received()
    assert owner.lost == [reason]
    assert (transport.closed, owner.events, outcomes) == (True, [], [Unanswered.LOST])
    assert link.number is None


def test_the_end_of_the_connection_is_told_with_the_systems_words_where_there_are_some(
    transport: Transport, owner: Owner
) -> None:
    for reason, detail in ((CloseReason.BROKEN, "Broken pipe"), (CloseReason.DOES_NOT_READ, "")):
        Link(transport, owner, GREETING).connection_lost(reason, detail)
    Link(transport, owner, GREETING).eof_received()
    assert owner.lost == ["Broken pipe", "it does not read what it is sent", "QEMU closed the connection"]


def test_a_request_that_cannot_be_encoded_leaves_the_link_as_it_was(
    link: Link, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Request, "encode", fail)
        pending = request()
        with pytest.raises(MemoryError):
            link.send(pending)
    assert (transport.written, link.is_idle, pending.sent) == ([], True, False)
    link.send(request())
    assert numbered(transport.written[0]) == 0


def test_a_request_that_qemu_has_skipped_is_known_by_the_answer_to_a_later_one(link: Link) -> None:
    link.send(request())
    link.send(request(oob=True))
    link.send(request())
    assert link.skipped is None
    link.data_received(b'{"return": {}, "id": 42}\r\n', [])
    assert link.skipped is None, "out-of-band replies overtake"
    link.data_received(b'{"return": {}, "id": 1}\r\n', [])
    assert link.skipped == "query-status"


def test_a_qemu_that_reads_nothing_is_noticed(link: Link, transport: Transport) -> None:
    transport.pending = MAX_BEHIND
    link.send(request(size=LONG + 1))
    assert link.is_behind
    assert not link.caught_up()
    link.when_sent(print)
    assert transport.on_sent is print
    transport.pending = 0
    assert link.caught_up()
    link.pause()
    assert transport.paused
    link.close()
    assert transport.closed


def test_a_link_is_at_rest_where_nothing_is_under_way_in_either_direction(link: Link, transport: Transport) -> None:
    numbers = [link.number]
    transport.pending = 1
    numbers.append(link.number)
    transport.pending = 0
    for data in (b'{"event', b'": "STOP"}\r\n'):
        link.data_received(data, [])
        numbers.append(link.number)
    link.send(request(oob=True))
    numbers.append(link.number)
    link.data_received(b'{"return": {}, "id": 42}\r\n', [])
    numbers.append(link.number)
    link.lose("a test")
    numbers.append(link.number)
    assert numbers == [41, None, None, 41, None, 42, None]
