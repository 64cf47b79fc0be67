"""How values are spelled: as QEMU spells them."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmpguard.wire import json as dialect
from qmpguard.wire.framing import Framer, Message
from qmpguard.wire.json import Number, Value, echo, echo_in_pieces, encode, encode_for_qemu, fragments_for_qemu, pieces

SPELLINGS: list[tuple[Value, bytes]] = [
    (None, b"null"),
    (True, b"true"),
    (False, b"false"),
    (0, b"0"),
    (-12, b"-12"),
    (18446744073709551615, b"18446744073709551615"),
    (Number("1e400"), b"1e400"),
    (Number("-0"), b"-0"),
    ("", b'""'),
    ("a/b'c", b'"a/b\'c"'),
    ('"\\', rb'"\"\\"'),
    ("\b\f\n\r\t", rb'"\b\f\n\r\t"'),
    ("\0\x0b\x1f\x7f", rb'"\u0000\u000B\u001F\u007F"'),
    ("\x80é€\ufffd", rb'"\u0080\u00E9\u20AC\uFFFD"'),
    ("\U00010000\U0001f600\U0010fffd", rb'"\uD800\uDC00\uD83D\uDE00\uDBFF\uDFFD"'),
    ("\ud800\udcff\ufdd0\ufffe\U0001ffff", rb'"\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"'),
    ("\\u00e9", rb'"\\u00e9"'),
    ([], b"[]"),
    ({}, b"{}"),
    ([1, [], {}, "é"], rb'[1, [], {}, "\u00E9"]'),
    ({"a": 1, "b": [1, 2], "é": {"": None}}, rb'{"a": 1, "b": [1, 2], "\u00E9": {"": null}}'),
    ({"a": Number("2.0"), "b": [True, {"c": False}]}, b'{"a": 2.0, "b": [true, {"c": false}]}'),
]


def slowly(value: Value) -> bytes:
    """The way of what the standard library cannot write."""
    return "".join(dialect._fragments(value, dialect._AS_QEMU)).encode()


@pytest.mark.parametrize(("value", "text"), SPELLINGS)
def test_a_value_is_spelled_as_qemu_spells_it(value: Value, text: bytes) -> None:
    assert encode(value) == text
    assert encode([value]) == b"[" + text + b"]"
    assert slowly(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2.0", b'"2.0"'),
        (5, b"5"),
        (True, b"true"),
        (18446744073709551615, b"18446744073709551615"),
        (18446744073709551616, b"1.8446744073709552e+19"),
        (-9223372036854775808, b"-9223372036854775808"),
        (-9223372036854775809, b"-9.2233720368547758e+18"),
        (Number("1" + "0" * 400), b"1" + b"0" * 400),
        (Number("2.0"), b"2"),
        (Number("-0"), b"0"),
        (Number("-0.0"), b"-0"),
        (Number("0.1"), b"0.10000000000000001"),
        (Number("1E5"), b"100000"),
        (Number("1e22"), b"1e+22"),
        (Number("-1e400"), b"-1e400"),
        (['1.0 "2.0', Number("3.0"), {"4.0": -5}], rb'["1.0 \"2.0", 3, {"4.0": -5}]'),
    ],
)
def test_a_value_is_echoed_as_qemu_has_read_it(value: Value, text: bytes) -> None:
    assert echo(value) == text


@pytest.mark.parametrize("innermost", [[], {}, Number("1")])
def test_any_depth_can_be_written(innermost: Value) -> None:
    value = innermost
    for _ in range(50_000):
        value = {"a": [value]}
    assert encode(value) == b'{"a": [' * 50_000 + encode(innermost) + b"]}" * 50_000
    assert encode_for_qemu(value) == b'{"a":[' * 50_000 + encode(innermost) + b"]}" * 50_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, "b c", {"d": Number("2.0")}], "e": None}, b'{"a":[1,"b c",{"d":2.0}],"e":null}'),
        ({"a": [1, True, "é€"]}, '{"a":[1,true,"é€"]}'.encode()),
        ('"\\/\n\0\x1f\x7f', b'"\\"\\\\/\\n\\u0000\\u001f\x7f"'),
        ("\x80\ufffd\U0001f600", '"\x80\ufffd\U0001f600"'.encode()),
    ],
)
def test_what_is_written_for_qemu_has_the_fewest_bytes(value: Value, text: bytes) -> None:
    assert encode_for_qemu(value) == text
    assert "".join(fragments_for_qemu(value)).encode() == text


# code points that QEMU has characters for
TEXT = st.text(
    st.characters(exclude_categories=["Cs"]).filter(
        lambda char: not 0xFDD0 <= ord(char) <= 0xFDEF and ord(char) & 0xFFFE != 0xFFFE
    )
)
INTEGERS = st.integers(-(10**20) + 1, 10**20 - 1)
NUMBERS = st.sampled_from(["-0", "0.0", "-0.50", "1e5", "10E-7", "1.5e+400", "9" * 21]).map(Number)
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | TEXT | st.text(st.characters(max_codepoint=127)),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(TEXT, values, max_size=5),
    max_leaves=20,
)


def assert_reads_as(text: bytes, value: Value) -> None:
    framer = Framer()
    framer.feed(text + b" ")
    assert framer.pull() == Message(value)
    assert framer.pull() is None


@given(VALUES)
def test_what_is_written_reads_as_the_same_value(value: Value) -> None:
    # the invariant: ASCII without control characters, one message, the same value; and the fast way is the slow way
    text = encode(value)
    assert text == slowly(value)
    assert all(0x20 <= byte < 0x7F for byte in text)
    assert_reads_as(text, value)


@given(VALUES)
def test_what_is_written_for_qemu_reads_as_the_same_value(value: Value) -> None:
    # the invariant: no control character below DEL, one message, the same value, never longer; both ways are the same
    text = encode_for_qemu(value)
    assert all(byte >= 0x20 for byte in text)
    assert len(text) <= len(encode(value))
    assert "".join(fragments_for_qemu(value)).encode() == text
    assert_reads_as(text, value)


@given(VALUES)
@example(["\U00010000" * 3])
def test_the_pieces_of_a_long_value_are_the_same_text_however_small(value: Value) -> None:
    # the invariant: the same text; a fragment is PIECE characters at most, and the one that fills a piece ends it
    longest = len("-10000000000000000000")  # a number is one; three escaped characters in quotes are not longer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "PIECE", 3)
        fragments = list(fragments_for_qemu(value))
        made = list(pieces(fragments))
        assert all(len(fragment) <= longest for fragment in fragments)
        assert all(len(piece.decode()) <= 3 - 1 + longest for piece in made)
        assert_reads_as(b"".join(made), value)
        echoed = b"".join(echo_in_pieces(value))
    assert echoed == b"".join(echo_in_pieces(value))


def test_no_piece_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one is known by none following it."""
    monkeypatch.setattr(dialect, "PIECE", 3)
    assert list(pieces(["abc"])) == [b"abc"]
    assert list(pieces(["ab", "cd", "e"])) == [b"abcd", b"e"]


@given(VALUES)
def test_the_standard_library_reads_what_is_written(value: Value) -> None:
    read = json.loads(encode(value), parse_float=Number, parse_int=lambda text: text)
    assert read == _spelled(value)


def _spelled(value: Value) -> object:
    match value:
        case list():
            return [_spelled(item) for item in value]
        case dict():
            return {key: _spelled(item) for key, item in value.items()}
        case Number(text):
            return value if set(text) & set(".eE") else text
        case bool():
            return value
        case int():
            return str(value)
        case _:
            return value
