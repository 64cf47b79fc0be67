"""Requests checked member by member, and replies worded, as QEMU does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.wire.client_messages import (
    BadRequest,
    Echo,
    Request,
    error_reply,
    read_enable,
    read_request,
    success_reply,
)
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from qmpguard.wire.json import Value


@pytest.mark.parametrize(
    ("value", "oob", "request_"),
    [
        ({"execute": "a"}, False, Request("a", None, None, oob=False)),
        ({"execute": "a", "id": 1}, False, Request("a", None, b"1", oob=False)),
        ({"execute": "a", "arguments": {}}, False, Request("a", {}, None, oob=False)),
        ({"execute": "a", "id": None, "arguments": {"b": 1}}, True, Request("a", {"b": 1}, b"null", oob=False)),
        ({"exec-oob": "a"}, True, Request("a", None, None, oob=True)),
        ({"exec-oob": "a", "arguments": {"b": 1}}, True, Request("a", {"b": 1}, None, oob=True)),
        ({"exec-oob": "a", "id": Number("2.0")}, True, Request("a", None, b"2", oob=True)),
    ],
)
def test_a_well_formed_request_is_read(value: Value, oob: bool, request_: Request) -> None:
    assert read_request(value, oob=oob) == request_


@pytest.mark.parametrize(
    ("value", "oob", "desc"),
    [
        (5, False, "QMP input must be a JSON object"),
        ([], True, "QMP input must be a JSON object"),
        ({}, False, "QMP input lacks member 'execute'"),
        ({"execute": 1}, False, "QMP input member 'execute' must be a string"),
        ({"exec-oob": 1}, True, "QMP input member 'exec-oob' must be a string"),
        ({"exec-oob": "a"}, False, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "a", "exec-oob": "a"}, True, "QMP input member 'execute' clashes with 'exec-oob'"),
        ({"execute": "a", "arguments": None}, False, "QMP input member 'arguments' must be an object"),
        ({"execute": "a", "arguments": []}, True, "QMP input member 'arguments' must be an object"),
        ({"exec-oob": "a", "arguments": 5}, True, "QMP input member 'arguments' must be an object"),
        ({"execute": "a", "control": {}}, False, "QMP input member 'control' is unexpected"),
        ({"execute": "a", "arguments": {}, "\0": 1}, False, "QMP input member '\0' is unexpected"),
        ({"": 1, "\u00bf": 2}, False, "QMP input member '\u00bf' is unexpected"),  # of one bucket, the last
        ({"\u00bf": 2, "": 1}, False, "QMP input member '' is unexpected"),
        ({"execute": "a", "e": 1, "d": 1}, False, "QMP input member 'd' is unexpected"),  # as QEMU 7.2 and 11.1 say
    ],
)
def test_what_is_wrong_is_said_in_qemus_words_and_keeps_the_id(value: Value, oob: bool, desc: str) -> None:
    assert read_request(value, oob=oob) == BadRequest(desc, None)
    if isinstance(value, dict):
        assert read_request({"id": "x", **value}, oob=oob) == BadRequest(desc, b'"x"')


def test_a_request_is_forwarded_under_a_number_of_ours() -> None:
    assert Request("a", None, b'"x"', oob=False).encode(3) == b'{"execute":"a","id":3}'
    assert Request("a", {"b": 1}, None, oob=True).encode(4) == b'{"exec-oob":"a","arguments":{"b":1},"id":4}'


def test_replies_of_our_own_look_like_qemus() -> None:
    assert error_reply("no", None) == b'{"error": {"class": "GenericError", "desc": "no"}}\r\n'
    assert error_reply("no", b"1", kind="CommandNotFound") == (
        b'{"id": 1, "error": {"class": "CommandNotFound", "desc": "no"}}\r\n'
    )
    assert success_reply({}, None) == b'{"return": {}}\r\n'
    assert success_reply({}, b"[1]") == b'{"return": {}, "id": [1]}\r\n'


OOB = frozenset({"oob"})


@pytest.mark.parametrize(
    ("arguments", "offered", "result"),
    [
        (None, OOB, frozenset()),
        ({}, OOB, frozenset()),
        ({"enable": []}, OOB, frozenset()),
        ({"enable": ["oob"]}, OOB, OOB),
        ({"enable": ["oob", "oob"]}, OOB, OOB),
        ({"enable": ["oob"]}, frozenset(), "Capability oob is not available"),
        ({"enable": 5}, OOB, "Invalid parameter type for 'enable', expected: array"),
        ({"enable": [5]}, OOB, "Invalid parameter type for 'enable[0]', expected: string"),
        ({"enable": ["oob", "x"]}, OOB, "Parameter 'null' does not accept value 'x'"),
        ({"enable": ["oob"], "x": 1}, OOB, "Parameter 'x' is unexpected"),
    ],
)
def test_negotiation_is_checked_as_qemu_does_it(
    arguments: dict[str, Value] | None, offered: frozenset[str], result: frozenset[str] | str
) -> None:
    assert read_enable(arguments, offered) == result


@pytest.mark.parametrize("oob", [False, True])
@pytest.mark.parametrize("arguments", [None, {}, {"a": [1, Number("2.0"), "\u00e9"]}])
def test_a_request_in_pieces_is_the_same_text(arguments: dict[str, Value] | None, oob: bool) -> None:
    request = Request("a", arguments, b"1", oob=oob)
    assert b"".join(request.pieces(7)) == request.encode(7)


@pytest.mark.parametrize(
    ("value", "text"), [({"id": [1, Number("2.0")]}, b"[1, 2]"), ({"execute": "a"}, None), ([{"id": 1}], None)]
)
def test_the_echo_of_an_id_is_made_a_piece_at_a_time(value: Value, text: bytes | None) -> None:
    echo = Echo(value)
    while not echo.is_made():
        pass
    assert echo.text == text
