"""A link without a socket, whole and byte by byte: numbers, replies, events, and what ends it."""

from __future__ import annotations

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
    return Link(transport, owner, GREETING, 7)


def request(identity: bytes | None = b'"mine"', *, oob: bool = False, size: int = 0) -> PendingRequest:
    session: Any = None
    return PendingRequest(session, Request("query-status", None, identity, oob), size)


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_replies_go_back_under_the_clients_own_id(link: Link, transport: Transport, owner: Owner, step: int) -> None:
    one, two = request(), request(None)
    link.send(one)
    link.send(two)
    assert [b'"id": 8' in data for data in transport.written] == [True, False]
    data = b'{"event": "STOP"}\r\n{"return": {}, "id": 8}\r\n{"id": 9, "error": {"class": "X", "desc": ""}}\r\n'
    for start in range(0, len(data), step):
        link.data_received(data[start : start + step], [])
    assert owner.events == ["STOP"]
    assert owner.replies == [
        (one, b'{"return": {}, "id": "mine"}\r\n'),
        (two, b'{"error": {"class": "X", "desc": ""}}\r\n'),
    ]
    assert (link.is_idle, link.number) == (True, 9)


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
    assert b'"id": 8' in transport.written[0]


def test_a_request_that_qemu_has_skipped_is_known_by_the_answer_to_a_later_one(link: Link) -> None:
    link.send(request())
    link.send(request(oob=True))
    link.send(request())
    assert link.skipped is None
    link.data_received(b'{"return": {}, "id": 9}\r\n', [])
    assert link.skipped is None, "out-of-band replies overtake"
    link.data_received(b'{"return": {}, "id": 10}\r\n', [])
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
