"""The names of descriptors: each client has its own, held until QEMU says that they are used or given up."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.proxy.clients.fd_names import NONE_SUPPLIED, FdNames, takes_descriptor
from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.wire.client_messages import Request

ACCEPTED, REFUSED = b'{"return": {}, "id": 1}\r\n', b'{"id": 1, "error": {"class": "GenericError", "desc": ""}}\r\n'
DESCRIPTOR: Any = object()


class Asker:
    """A session, of which nothing is needed but which one it is."""


def request(session: Any, command: str, descriptor: Any = DESCRIPTOR, **arguments: Any) -> PendingRequest:
    pending = PendingRequest(session, Request(command, arguments, b"1", oob=False))
    pending.descriptor = descriptor
    return pending


@pytest.mark.parametrize(
    ("command", "arguments", "takes"),
    [
        ("getfd", {"fdname": "a"}, True),
        ("getfd", {"fdname": 1}, False),
        ("getfd", {}, False),
        ("getfd", {"fdname": "a", "more": 1}, False),
        ("add-fd", {}, True),
        ("add-fd", {"fdset-id": 1, "opaque": "x"}, True),
        ("add-fd", {"fdset-id": True}, False),
        ("add-fd", {"fdset-id": (1 << 63) - 1}, True),
        ("add-fd", {"fdset-id": 1 << 63}, False),
        ("add-fd", {"fdset-id": -(1 << 63)}, True),
        ("add-fd", {"opaque": 1}, False),
        ("closefd", {"fdname": "a"}, False),
    ],
)
def test_qemu_takes_a_descriptor_for_what_it_can_read(command: str, arguments: dict[str, Any], takes: bool) -> None:
    assert takes_descriptor(Request(command, arguments, None, oob=False)) is takes
    assert not takes_descriptor(Request(command, arguments, None, oob=True))


def test_a_name_that_another_client_holds_is_refused_until_it_is_used() -> None:
    names, one, other = FdNames(), Asker(), Asker()
    given = request(one, "getfd", fdname="a")
    assert names.refusal(given) is None
    names.on_reply(given, ACCEPTED)
    assert b"in use by another client" in (names.refusal(request(other, "getfd", fdname="a")) or b"")
    # neither a success of the owner that does not name it nor a mention by another client ends it
    names.on_reply(request(one, "query-name"), ACCEPTED)
    names.on_reply(request(other, "migrate", uri="fd:a"), ACCEPTED)
    names.on_reply(request(one, "migrate", uri="fd:a"), REFUSED)
    assert names.refusal(request(other, "getfd", fdname="a"))
    names.on_reply(request(one, "migrate", channels=[{"addr": {"str": "fd:a"}}]), ACCEPTED)
    assert not names.attentive
    assert names.refusal(request(other, "getfd", fdname="a")) is None


def test_the_owner_may_give_its_name_anew_and_a_refused_one_is_nobodys() -> None:
    names, one, other = FdNames(), Asker(), Asker()
    given = request(one, "getfd", fdname="a")
    assert names.refusal(given) is None
    assert names.refusal(request(one, "getfd", fdname="a")) is None
    names.on_reply(given, REFUSED)
    assert names.refusal(request(other, "getfd", fdname="a")) is None


def test_a_client_that_leaves_holds_nothing_and_leaves_nothing_behind() -> None:
    names, one, other = FdNames(), Asker(), Asker()
    given, unsent = request(one, "getfd", fdname="a"), request(one, "add-fd")
    for pending in (given, unsent):
        assert names.refusal(pending) is None
    names.on_reply(given, ACCEPTED)
    session: Any = one
    names.on_session_closed(session, [unsent])
    assert (names.attentive, names._under_way, names._names, names._givers) == (False, set(), {}, {})
    assert names.refusal(request(other, "getfd", fdname="a")) is None


def test_where_qemu_may_have_a_strays_descriptor_a_request_without_one_does_not_reach_it() -> None:
    names, one, other = FdNames(), Asker(), Asker()
    assert names.refusal(request(other, "add-fd", descriptor=None)) is None
    given = request(one, "getfd", fdname="1x")
    assert names.refusal(given) is None
    names.on_reply(given, REFUSED)
    assert NONE_SUPPLIED.encode() in (names.refusal(request(other, "add-fd", descriptor=None)) or b"")
    assert names.refusal(request(other, "getfd", descriptor=None, fdname=5)) is None
    following = request(other, "add-fd")
    assert names.refusal(following) is None
    names.on_reply(following, ACCEPTED)
    assert names.refusal(request(one, "add-fd", descriptor=None)) is None
