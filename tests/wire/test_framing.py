"""How bytes become messages: one table of cases, fed whole, byte by byte and with other bytes behind them."""

from __future__ import annotations

import time
import tracemalloc
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmpguard.wire import framing
from qmpguard.wire.framing import MAX_REQUEST, NODE, Framer, Malformed, Message
from qmpguard.wire.json import Number, encode
from qmpguard.wire.lexer import Lexer
from tests.wire.test_json import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.wire.json import Value

    Item = Message | Malformed


def read(
    data: bytes,
    *,
    step: int | None = None,
    max_size: int = MAX_REQUEST,
    skips: bool = False,
    budget: int = 4096,
) -> list[Item]:
    """Feed bytes in steps and return what they are made into. One byte at a time, no message is read in one go."""
    framer = Framer(max_size=max_size, skips=skips)
    items: list[Item] = []
    for i in range(0, len(data), step or len(data) or 1):
        framer.feed(data[i : i + (step or len(data))])
        while (item := framer.pull(budget)) or framer.busy:
            if item:
                items.append(item)
    return items


def bad(*descs: str) -> list[Item]:
    return [Malformed(f"JSON parse error, {desc}") for desc in descs]


def good(*values: Value) -> list[Item]:
    return [Message(value) for value in values]


TOO_DEEP = Malformed("JSON nesting depth limit exceeded")
TOO_MANY = Malformed("JSON token count limit exceeded")
TOO_LARGE = Malformed("JSON token size limit exceeded")
EXPECTING = "expecting value"
KEY = "key is not a string in object"
COLON = "missing : in object pair"
IN_DICT = "expected separator in dict"
IN_LIST = "expected separator in list"
ESCAPE = "invalid escape sequence in string"
UTF8 = "invalid UTF-8 sequence in string"
DUPLICATE = "duplicate key"


def no_character(text: str) -> str:
    return f"{text} is not a valid Unicode character"


#: each is followed by a space, so that numbers and keywords end
CASES: list[tuple[bytes, list[Item]]] = [
    # values
    (b"", []),
    (b" \t\r\n ", []),
    (b"{}", good({})),
    (b"[]", good([])),
    (b'{"execute": "query-name", "id": 1}', good({"execute": "query-name", "id": 1})),
    (
        b'{"a":[1,[],{},"x",true,false,null],"b":{"c":{}}}',
        good({"a": [1, [], {}, "x", True, False, None], "b": {"c": {}}}),
    ),
    (b"{'a': 'b\"c', \"d\": \"e'f\"}", good({"a": 'b"c', "d": "e'f"})),
    (b"{\r\n\t'a'\n:\t1 , 'b':2\r}", good({"a": 1, "b": 2})),
    (b'true 1 "a" null [false]', good(True, 1, "a", None, [False])),
    (b"{}{}[]1\"a\"'b'", good({}, {}, [], 1, "a", "b")),
    (b'{"":""}', good({"": ""})),
    # numbers
    (b"0 -1 10 18446744073709551616", good(0, -1, 10, 18446744073709551616)),
    (b"99999999999999999999 -99999999999999999999", good(10**20 - 1, 1 - 10**20)),
    (b"100000000000000000000", good(Number("100000000000000000000"))),
    (b'{"a": 100000000000000000000}', good({"a": Number("100000000000000000000")})),
    (b'{"a": -0, "b": [2.0, -1.5e+7]}', good({"a": Number("-0"), "b": [Number("2.0"), Number("-1.5e+7")]})),
    (b'{"a": 1E400, "b": -0.0}', good({"a": Number("1E400"), "b": Number("-0.0")})),
    (b"-0 1e5 1.25E-10", good(*map(Number, ["-0", "1e5", "1.25E-10"]))),
    (b"0e1", [*good(0), *bad("invalid keyword 'e'"), *good(1)]),
    (b'{"a": 0e1}', bad(IN_DICT)),
    (b'{"a": -0E1}', bad("stray 'E'", EXPECTING)),
    (b"1.5.5", [*good(Number("1.5")), *bad("stray '.'")]),
    (b"01", bad("stray '01'")),
    (b"[-01]", bad("stray '-01'", EXPECTING)),
    (b"+1", bad("stray '+'")),
    (b"- 1", bad("stray '- '")),
    (b"-x", bad("stray '-x'")),
    (b"1.,", bad("stray '1.,'")),
    (b"1.x", bad("stray '1.x'")),
    (b"1ex", bad("stray '1ex'")),
    (b"1e+-", bad("stray '1e+-'")),
    (b".5", bad("stray '.'")),
    (b"1a", [*good(1), *bad("invalid keyword 'a'")]),
    (b"0x10", [*good(0), *bad("invalid keyword 'x'"), *good(10)]),
    # keywords
    (b"nul", bad("invalid keyword 'nul'")),
    (b"nullnull", bad("invalid keyword 'nullnull'")),
    (b"True", bad("stray 'T'")),
    (
        b'{"a": NaN, "b": 1}',
        [*bad("stray 'N'", EXPECTING), *good("b"), *bad(EXPECTING), *good(1), *bad(EXPECTING)],
    ),
    (b"[Infinity]", bad("stray 'I'", EXPECTING)),
    (b"{'a': truex}", bad("invalid keyword 'truex'")),
    (b"x" * 2000, bad("invalid keyword '" + "x" * (1023 - 17))),
    # strings
    (rb'"\"\'\\\/\b\f\n\r\t"', good("\"'\\/\b\f\n\r\t")),
    (rb"'\"\'\\\/\b\f\n\r\t'", good("\"'\\/\b\f\n\r\t")),
    (rb"'\\\"\\\\'", good('\\"\\\\')),
    (rb"'\\'", good("\\")),
    (rb'"\u0041\u00e9\u20AC\ud83d\uDE00\u0000"', good("Aé€😀\0")),
    (rb'{"a": "\u0041\n"}', good({"a": "A\n"})),
    ('"é€😀\x7f\U0010fffd"'.encode(), good("é€😀\x7f\U0010fffd")),
    (b'"\xc0\x80"', good("\0")),
    (rb'{"\u0000": 1, "' + b'\xc0\x80": 2}', bad(DUPLICATE)),
    ('{"é": 1}'.encode(), good({"é": 1})),
    (b'"%s %%"', good("%s %%")),
    (rb'"\q"', bad(ESCAPE)),
    (rb'{"a": "\U0041"}', bad(ESCAPE)),
    (rb'"\ud800"', bad(no_character(r"\ud800"))),
    (rb'"\ud800\u0041"', bad(no_character(r"\ud800"))),
    (rb'"\ud800\ud800\udc00"', bad(no_character(r"\ud800"))),
    (rb'"\udc00"', bad(no_character(r"\udc00"))),
    (rb'"\ufffe"', bad(no_character(r"\ufffe"))),
    (rb'"\uFDD0"', bad(no_character(r"\uFDD0"))),
    (rb'"\uFDEf"', bad(no_character(r"\uFDEf"))),
    (rb'"\uFDF0\uFDCF\uFFFD"', good("\ufdf0\ufdcf\ufffd")),
    (rb'"\ud83f\uDFFE"', bad(no_character(r"\ud83f\uDFFE"))),
    (rb'"\uDBBF\uDFFD"', good("\U000ffffd")),
    (rb'"\uDBBF\uDFFF"', bad(no_character(r"\uDBBF\uDFFF"))),
    (rb'{"a": "\ud800"}', bad(no_character(r"\ud800"))),
    (rb'"\u12"', bad(no_character(r'\u12"'))),
    (rb'"\u"', bad(no_character(r'\u"'))),
    (rb'"\ud800\u12"', bad(no_character(r"\ud800"))),
    (b'"\\u12\xc3\xa9x"', bad(no_character(r"\u12é"))),
    (b'"\\u123\xc3\xa9"', bad(no_character("\\u123\ufffd"))),
    (rb'"\q \ud800"', bad(ESCAPE)),
    (b'"\\n\xc3 \\q"', bad(UTF8)),
    (b'"\\q\xc3"', bad(ESCAPE)),
    (b'"\\\xc3\xa9"', bad(ESCAPE)),
    (b'"\x80"', bad(UTF8)),
    (b'"\xc3\\u00a9"', bad(UTF8)),
    (b'"\xc1\x80"', bad(UTF8)),
    (b'"\xc0\x81"', bad(UTF8)),
    (b'"\xe0\x80\x80"', bad(UTF8)),
    (b'"\xed\xa0\x80"', bad(UTF8)),
    (b'"\xef\xb7\x90"', bad(UTF8)),
    (b'"\xef\xbf\xbe"', bad(UTF8)),
    (b'"\xf0\x8f\xbf\xbf"', bad(UTF8)),
    (b'"\xf0\x9f\xbf\xbf"', bad(UTF8)),
    (b'"\xf4\x90\x80\x80"', bad(UTF8)),
    (b'"\xf8\x88\x80\x80\x80"', bad(UTF8)),
    (b'"\xfc\x84\x80\x80\x80\x80"', bad(UTF8)),
    (b'{"\x80": x}', bad(UTF8)),
    (b'"a\tb', bad("stray '\"a\t'")),
    (b'"a\\\n', bad("stray '\"a\\\n'")),
    (b"'a\x00", bad("stray ''a'")),
    (b'"\xe2\x82\xff', bad("stray '\"\ufffd\ufffd'")),
    (b'"\xc0\x80\x80\xc3\xa9\xef\xbf\xbe\x01', bad("stray '\"\0\ufffdé\ufffd\x01'")),
    (b"\xef\xbb\xbf{}", [*bad("stray '\ufffd'"), *good({})]),
    (b"\xff", bad("stray '\ufffd'")),
    (b"\xff\xff\x00\x01", bad("stray '\ufffd'", "stray '\ufffd'", "stray ''", "stray '\x01'")),
    (b"%d", bad("stray '%'")),
    # grammar: one error for a message, when its brackets balance
    (b"}", bad(EXPECTING)),
    (b"]", bad(EXPECTING)),
    (b":", bad(EXPECTING)),
    (b",", bad(EXPECTING)),
    (b",{}:", [*bad(EXPECTING), *good({}), *bad(EXPECTING)]),
    (b"[1,]", bad(EXPECTING)),
    (b"[,1]", bad(EXPECTING)),
    (b"[1 2]", bad(IN_LIST)),
    (b"[1:2]", bad(IN_LIST)),
    (b"[1}", bad(IN_LIST)),
    (b"{]", bad(EXPECTING)),
    (b"{[}]", bad(EXPECTING)),
    (b"[{]}", bad(EXPECTING)),
    (b"{]}", bad(EXPECTING, EXPECTING)),
    (b"[}]", bad(EXPECTING, EXPECTING)),
    (b"{,}", bad(EXPECTING)),
    (b'{"a"}', bad(COLON)),
    (b'{"a" 1}', bad(COLON)),
    (b'{"a":}', bad(EXPECTING)),
    (b'{"a":1,}', bad(EXPECTING)),
    (b'{"a":1 "b":2}', bad(IN_DICT)),
    (b'{"a":1]', bad(IN_DICT)),
    (b"{1:2}", bad(KEY)),
    (b"{null}", bad(KEY)),
    (b"{{}:1}", bad(KEY)),
    (b"{[1,2]:1}", bad(KEY)),
    (b"{[1 2]:1}", bad(IN_LIST)),
    (b"{nil:1}", bad("invalid keyword 'nil'")),
    (b'{"a":1,"a":2}', bad(DUPLICATE)),
    (b'{"a":1,"a":nil}', bad("invalid keyword 'nil'")),
    (b'{"a":{"b":1,"b":2},"a":3}', bad(DUPLICATE)),
    (b'{"a":[1 2],"b":"\\q"}{"c":1}', [*bad(IN_LIST), *good({"c": 1})]),
    (b'{"a":{"b":[}]}{}', [*bad(EXPECTING), *good({})]),
    (b"[1,[2,[3 4]], 5 6]7", [*bad(IN_LIST), *good(7)]),
    # recovery: a lexical error drops the message and skips to a structural or control character
    (b"@@ abc 12 {}", [*bad("stray '@'"), *good({})]),
    (b"@\t1\n2", [*bad("stray '@'"), *good(2)]),
    (b"@'a'\r'b'", [*bad("stray '@'"), *good("b")]),
    (b"@\x01", bad("stray '@'", "stray '\x01'")),
    (b"@\xfe", bad("stray '@'", "stray '\ufffd'")),
    (b"@\xfd\xc3,", bad("stray '@'", EXPECTING)),
    (b"{'a': @ }", bad("stray '@'", EXPECTING)),
    (b"{'a': @ ]", bad("stray '@'", EXPECTING)),
    (b"[[[@[1]", [*bad("stray '@'"), *good([1])]),
    (b"/* no */ {}", [*bad("stray '/'"), *good({})]),
    (b'{"a": 1 // no\n}', bad("stray '/'", EXPECTING)),
    # depth
    (b"[" * 1024 + b"@", bad("stray '@'")),
    (b"[" * 1025, [TOO_DEEP]),
    (b"{'a':" * 1025, [TOO_DEEP, *good("a"), *bad(EXPECTING)]),
    (b'{"a":' * 1025, [TOO_DEEP, *good("a"), *bad(EXPECTING)]),
]

#: what may stand behind a case, and what it is
BEHIND: list[tuple[bytes, list[Item]]] = [(b" ", []), (b'\n{"z": 1}', good({"z": 1})), (b"\r\n'z' ", good("z"))]


@pytest.mark.parametrize(("behind", "more"), BEHIND)
@pytest.mark.parametrize(("data", "items"), CASES)
def test_bytes_mean_what_they_mean_to_qemu(data: bytes, items: list[Item], behind: bytes, more: list[Item]) -> None:
    expected = [*items, *more]
    assert read(data + behind) == expected
    assert read(data + behind, step=1) == expected
    assert read(data + behind, step=3, budget=1) == expected
    assert read(b"{} " + data + behind) == [Message({}), *expected]


@pytest.mark.parametrize("data", [b"{", b'"abc', b"'", b"12", b"tru", b'{"a": [1, 2', b'{"a": "\\', b"1.", b"[{]"])
def test_what_is_unfinished_is_waited_for(data: bytes) -> None:
    framer = Framer()
    framer.feed(data)
    assert framer.pull() is None
    assert not framer.busy
    assert framer.held - NODE * framer._tokens == len(data.replace(b" ", b""))
    framer.feed(b"\xff\n{}")
    items = [framer.pull() for _ in range(4)]
    assert Message({}) in items
    assert framer.held == 0


def nested(value: Value) -> int:
    depth = 1
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


@pytest.mark.parametrize("step", [None, 1, 1000])
def test_1024_is_deep_enough_and_1025_too_deep(step: int | None) -> None:
    (message,) = read(b"[" * 1024 + b"]" * 1024, step=step)
    assert isinstance(message, Message)
    assert nested(message.value) == 1024
    refused = read(b"[" * 1025 + b"]" * 1025, step=step)
    assert refused == [TOO_DEEP, *bad(*[EXPECTING] * 1025)]


@pytest.mark.parametrize("depth", [400, 1023])
def test_depth_counts_objects_and_arrays_together(depth: int) -> None:
    (item,) = read(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
    assert isinstance(item, Message)
    assert isinstance(item.value, dict)
    assert nested(item.value["a"]) == depth


def test_brackets_in_strings_and_side_by_side_are_no_depth() -> None:
    data = b'{"a":"' + b"[" * 3000 + b'"}'
    assert read(data) == read(data, step=1) == good({"a": "[" * 3000})
    data = b'{"a":[' + b"[]," * 1500 + b"1]}"
    assert read(data) == read(data, step=1) == good({"a": [*([] for _ in range(1500)), 1]})
    data = b'{"a":"' + b"a" * 3000 + b'"}'
    assert read(data) == read(data, step=1) == good({"a": "a" * 3000})


def test_as_many_tokens_are_read_as_qemu_reads_with_an_id_behind_them() -> None:
    id_behind = len([",", '"id"', ":", "1"])
    assert framing.MAX_TOKENS + id_behind == 2 << 20  # QEMU qobject/json-streamer.c: MAX_TOKEN_COUNT


def test_tokens_are_counted_to_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_TOKENS", 5)
    assert read(b"[1,2][1,2]", step=1) == good([1, 2], [1, 2])
    assert read(b"[1,2,3]", step=1) == [TOO_MANY, *bad(EXPECTING)]


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"[" * 1025 + b"{}" + b"]" * 1025 + b"{}", [TOO_DEEP, *good({})]),
        (b"{'a':" * 1025 + b"{}" + b"}" * 1025 + b"{}", [TOO_DEEP, *good({})]),
        (b"[" * 1025 + b"@ {}", [TOO_DEEP, *good({})]),
        (b"[" * 1025 + b"}{}", [TOO_DEEP, *good({})]),
        (b"[" * 1025 + b"'\xff{}", [TOO_DEEP, *good({})]),
    ],
)
def test_qemu_11_skips_the_rest_of_a_message_that_is_too_deep(data: bytes, items: list[Item]) -> None:
    for step in (None, 1):
        assert read(data, step=step, skips=True) == items


def test_qemu_11_has_nothing_to_skip_where_a_limit_is_met_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_TOKENS", 6)
    assert read(b"[1,2,3]{}", step=1, skips=True) == [TOO_MANY, *good({})]
    assert read(b"[1,2,3,4]{}", step=1, skips=True) == [TOO_MANY, *good({})]


#: with a limit of ten
SIZES: list[tuple[bytes, list[Item]]] = [
    (b"[1, 2, 34]", good([1, 2, 34])),
    (b"[1, 2, 3456]", [TOO_LARGE]),
    (b'{"a":  12}', good({"a": 12})),
    (b'{"a":"12"}', [TOO_LARGE]),
    (b'"1234567"', good("1234567")),
    (b'"12345678"', [TOO_LARGE]),
    (b'"123456789"', [TOO_LARGE]),
    (b'"1234567890"', [TOO_LARGE]),
    (b"123456789 ", good(123456789)),
    (b"1234567890 ", [TOO_LARGE]),
    (b"12345678901 ", [TOO_LARGE]),
    (b"123456789012 ", [TOO_LARGE]),
    (b"abcdefghijkl ", [TOO_LARGE]),
    (b"abcdefghijkl{}", [TOO_LARGE, *good({})]),
    (b'"12345678\x01', bad("stray '\"12345678\x01'")),
    (b'"123456789\x01', bad("stray '\"123456789\x01'")),
    (b"[['0123456789", [TOO_LARGE]),
    (b"[     '       ' ]", [TOO_LARGE]),
    # what is part of a message that is too large is no message
    (b'{"a": "0123456789", "b": {"c": 1}}{}', [TOO_LARGE, *good({})]),
    (b"['0123456789{}'][]", [TOO_LARGE, *good([])]),
    (b"'0123456789{}\\'{}'[]", [TOO_LARGE, *good([])]),
    (b"[[1,2,3,4,5,6], {}][]", [TOO_LARGE, *good([])]),
    (b"[[1,2,3,4,5,6]}{}", [TOO_LARGE, *good({})]),
    (b"[[1,2,3,4,5,6],@ {}", [TOO_LARGE, *good({})]),
    (b"['0123456789\n{}", [TOO_LARGE, *good({})]),
]


@pytest.mark.parametrize(("data", "items"), SIZES)
def test_tokens_of_ten_bytes_are_too_large_if_that_is_the_limit(data: bytes, items: list[Item]) -> None:
    for step in (None, 1, 2):
        assert read(data + b" ", step=step, max_size=10) == items


def test_a_token_without_end_is_not_kept() -> None:
    framer = Framer(max_size=1000)
    framer.feed(b'{"a":"')
    largest = 0
    for _ in range(100):
        framer.feed(b"a" * 100)
        while framer.pull() or framer.busy:
            pass
        largest = max(largest, framer.held)
    assert 900 < largest <= 1000 + len(b'{"a":') + 3 * NODE


@pytest.mark.parametrize("step", [None, 7])
@pytest.mark.parametrize("item", [b"[]", b"{}", b"0.5", b"-7", b'"abcdefgh"'])
def test_what_a_message_has_become_is_counted_and_not_only_its_bytes(item: bytes, step: int | None) -> None:
    data = b'{"a": [%b]}' % b",".join([item] * 10_000)
    tracemalloc.start()
    framer, message = Framer(), None
    for start in range(0, len(data), step or len(data)):
        framer.feed(data[start : start + (step or len(data))])
        while framer.busy and (message := framer.pull()) is None:
            pass
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert message is not None
    assert taken / 2 < framer.size < taken * 4 + 2 * len(data)


def test_a_stray_token_is_quoted_up_to_a_limit() -> None:
    items = read(b'"' + b"\x80" * (framing.MAX_STRAY + 10) + b"\n")
    assert items == bad("stray '\"" + "\ufffd" * (framing.MAX_STRAY - 1) + "'")


def test_bytes_wait_until_they_are_pulled() -> None:
    framer = Framer()
    framer.feed(b"{}{}")
    assert (framer.busy, framer.held) == (True, 4)
    assert framer.pull() == Message({})
    assert (framer.busy, framer.held) == (True, 2)
    framer.feed(b" [")
    assert framer.pull() == Message({})
    assert framer.pull() is None
    assert (framer.busy, framer.held) == (False, 1 + NODE)


def test_a_pull_looks_at_so_many_tokens_and_no_more() -> None:
    framer = Framer()
    framer.feed(b"[" + b"1," * 10 + b"2]")
    assert [framer.pull(5) for _ in range(4)] == [None] * 4
    assert framer.busy
    assert framer.pull(5) == Message([*[1] * 10, 2])


def test_a_pull_looks_at_64_kib_and_no_more() -> None:
    framer = Framer()
    framer.feed(b'"' + b"a" * 200_000 + b'"')
    assert [framer.pull() for _ in range(3)] == [None] * 3
    assert framer.busy
    assert framer.pull() == Message("a" * 200_000)


def test_ordinary_objects_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Lexer) -> None:
        raise AssertionError("the lexer was asked")

    monkeypatch.setattr(Lexer, "next", refuse)
    framer = Framer()
    framer.feed(b'{"execute": "stop", "id": 12}\r\n{"a": {"b": ["it\'s", "\\n", 1.5, true]}}{}{"a": "\xc3\xa9"}')
    assert framer.pull() == Message({"execute": "stop", "id": 12})
    assert framer.pull() == Message({"a": {"b": ["it's", "\n", Number("1.5"), True]}})
    assert framer.pull() == Message({})
    with pytest.raises(AssertionError, match="the lexer was asked"):
        framer.pull()


@pytest.mark.parametrize("unit", [b"a", b"\\n", b"\\u00e9", b"\xc3\xa9", b"\\'", b'", "'])
def test_time_is_linear_in_the_bytes_however_they_are_cut(unit: bytes) -> None:
    def seconds(count: int) -> float:
        start = time.process_time()
        (item,) = read(b'["' + unit * count + b'"]', step=16)
        assert isinstance(item, Message)
        return time.process_time() - start

    # for eight times the bytes, a quadratic reader takes 64 times as long
    assert seconds(40_000) < 30 * seconds(5_000) + 0.1


#: what tokens and errors are made of; the more often here, the more often tried
PIECES = [
    *map(bytes, zip(range(256), strict=True)),
    *[b"{", b"}", b"[", b"]", b":", b",", b'"', b"'"] * 20,
    *[b" ", b"\n", b'"a"', b"'b'", b"12", b"-0", b"1.5", b"0e1", b"1e5", b"true", b"null", b"x", b"{}", b'{"a":1}'] * 8,
    *[b'{"a":', b"\\u0041", b"\\u", b"\\ud83d\\ude00", b"\\ud800", b"\\", b"\\'", b"\xc3\xa9", b"\xc0\x80", b"\xff"]
    * 4,
]
FRAGMENTS = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = b"\n".join(encode(value) for value in draw(st.lists(VALUES, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(FRAGMENTS) + data[at + draw(st.integers(0, 3)) :]
    return data


STREAMS = mutated() | FRAGMENTS | FRAGMENTS.map(lambda data: b'{"a": ' + data + b"}")


@settings(max_examples=300, deadline=None)
@example(b'{"a": 0e1} ', [1])
@given(STREAMS, st.lists(st.integers(1, 9), min_size=1))
def test_items_do_not_depend_on_how_bytes_are_cut(data: bytes, steps: list[int]) -> None:
    # the invariant: what is read in one go is what is read token by token
    slow = read(data, step=1)
    assert read(data) == slow
    assert read_in_steps(data, steps) == slow
    assert read(data, step=1, max_size=12) == read(data, max_size=12)


def read_in_steps(data: bytes, steps: Iterable[int]) -> list[Item]:
    framer, items, sizes = Framer(), [], cycle(steps)
    while data:
        size = next(sizes)
        framer.feed(data[:size])
        data = data[size:]
        while (item := framer.pull(2)) or framer.busy:
            if item:
                items.append(item)
    return items


@settings(deadline=None)
@given(STREAMS)
def test_no_bytes_raise_and_0xff_begins_anew(data: bytes) -> None:
    assert read(data + b"\xff\n{}")[-1] == Message({})


@pytest.mark.parametrize(("depth", "too_deep"), [(512, False), (513, True)])
def test_the_quick_way_counts_objects_and_arrays_together_too(depth: int, *, too_deep: bool) -> None:
    assert (TOO_DEEP in read(b'{"a": [' * depth + b"1" + b"]}" * depth)) is too_deep
