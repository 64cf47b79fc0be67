"""A client's input: each message in one call, with its descriptor, and long ones in turns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.clients.input import Input, Received
from qmpguard.proxy.sockets.descriptors import Descriptor
from qmpguard.wire.client_messages import BadRequest, Request
from qmpguard.wire.framing import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

GETFD = b'{"execute": "getfd", "arguments": {"fdname": "a"}}'


def descriptor() -> Descriptor:
    return Descriptor(os.open(os.devnull, os.O_RDONLY))


def is_open(each: Descriptor) -> bool:
    return each.fileno() >= 0


@pytest.fixture
def negotiated() -> Iterator[Input]:
    made = Input()
    made.negotiated(oob=True)
    yield made
    made.drop_descriptor()


def messages(given: Input) -> list[Received]:
    found = []
    while given.busy:
        if (received := given.next()) is not None:
            found.append(received)
    return found


@pytest.mark.parametrize("step", [1, 9, 10_000])
def test_messages_come_one_in_each_call(negotiated: Input, step: int) -> None:
    data = b'{"execute": "a"} ] {"exec-oob": "b", "id": 1} [] '
    found: list[Received] = []
    for start in range(0, len(data), step):
        negotiated.feed(data[start : start + step], [])
        found += messages(negotiated)
    kinds = [type(each.message) for each in found]
    assert kinds == [Request, Malformed, Request, BadRequest]
    third = found[2].message
    assert isinstance(third, Request)
    assert (third.oob, third.id) == (True, b"1")


def test_the_last_message_of_a_read_says_that_there_is_no_more(negotiated: Input) -> None:
    negotiated.feed(b'{"execute": "a"}{"execute": "b"}', [])
    assert [each.more for each in messages(negotiated)] == [True, False]
    assert negotiated.next() is None


def test_a_request_takes_the_clients_descriptor_and_others_leave_it(negotiated: Input) -> None:
    kept, late = descriptor(), descriptor()
    negotiated.feed(b'{"execute": "query-name"}' + GETFD + GETFD, [kept, late])
    first, second, third = messages(negotiated)
    assert (first.descriptor, second.descriptor, third.descriptor) == (None, kept, None)
    assert not is_open(late), "QEMU takes the first of a batch and closes the rest"
    kept.close()


def test_another_batch_closes_what_was_kept(negotiated: Input) -> None:
    first, second = descriptor(), descriptor()
    negotiated.feed(b" ", [first])
    negotiated.feed(b" ", [second])
    assert (is_open(first), is_open(second)) == (False, True)
    negotiated.drop_descriptor()
    negotiated.drop_descriptor()
    assert not is_open(second)


def test_before_the_negotiation_no_request_takes_a_descriptor() -> None:
    early, kept = Input(), descriptor()
    early.feed(GETFD, [kept])
    assert messages(early)[0].descriptor is None
    early.negotiated(oob=False)
    early.feed(GETFD + b'{"exec-oob": "x"}', [])
    taken, not_enabled = messages(early)
    assert taken.descriptor is kept
    assert isinstance(not_enabled.message, BadRequest)
    kept.close()


def test_a_long_id_is_encoded_in_turns_and_its_request_has_its_descriptor(negotiated: Input) -> None:
    kept = descriptor()
    data = GETFD[:-1] + b', "id": [' + b"0.5, " * 50_000 + b"1]}"
    negotiated.feed(data, [kept])
    turns = 0
    while (received := negotiated.next()) is None:
        assert negotiated.busy
        turns += 1
        assert negotiated.held >= 0
    assert turns > 1
    assert received.size > len(data)
    assert received.descriptor is kept
    assert isinstance(received.message, Request)
    assert received.message.id is not None
    assert received.message.id.count(b"0.5") == 50_000
    kept.close()


def test_the_rest_of_a_message_over_a_limit_is_read_as_the_connected_qemu_reads_it() -> None:
    for skips, count in ((False, 3), (True, 1)):
        each = Input()
        each.follow(skips=skips)
        each.feed(b"[" * 1025 + b"]" * 2, [])
        assert len(messages(each)) == count


def test_a_long_message_that_is_no_object_is_a_bad_request_as_a_short_one_is(negotiated: Input) -> None:
    for message in (b'["id", "%b"]' % (b"x" * 100_000), b'"%b"' % (b"id" * 50_000), b"[%b 1]" % (b"2, " * 40_000)):
        negotiated.feed(message, [])
        while (received := negotiated.next()) is None:
            assert negotiated.busy
        assert isinstance(received.message, BadRequest)
        assert received.message.id is None
    negotiated.feed(b'{"execute": "query-name"}', [])
    received = negotiated.next()
    assert received is not None
    assert isinstance(received.message, Request)
