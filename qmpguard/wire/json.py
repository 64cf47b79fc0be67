"""QEMU's dialect of JSON: its values in Python, and QEMU's encoding of them.

`qmpguard.wire.framing` has the decoding, since in this dialect a message ends where its brackets balance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from json import JSONEncoder
from json.encoder import (  # type: ignore[attr-defined]  # c_make_encoder: the accelerator of `JSONEncoder`
    c_make_encoder,
    encode_basestring,
    encode_basestring_ascii,
)
from math import isinf
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Number:
    """A number that keeps its spelling, since an `int` would lose it: ``2.0``, ``1e400``, ``-0``."""

    text: str


Value: TypeAlias = bool | int | str | Number | list["Value"] | dict[str, "Value"] | None

#: the characters that QEMU escapes (qobject/json-writer.c: quoted_str)
_ESCAPED = re.compile(r'["\\]|[^ -~]')
_SHORT = {'"': r"\"", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_REPLACEMENT = 0xFFFD
#: characters of the longest integer that QEMU keeps as an integer, with its sign
_INT64_SIZE = 20

_ordinary = JSONEncoder(check_circular=False).encode
# what `JSONEncoder.encode` makes anew for each value: two thirds of its time
_shortest: Callable[[Value, int], Iterable[str]] = c_make_encoder(
    None, JSONEncoder().default, encode_basestring, None, ":", ",", False, False, True
)
#: a string as `encode_for_qemu` writes it, as text
quote_for_qemu = encode_basestring

#: characters that are encoded in one piece
PIECE = 16 << 10


def encode(value: Value) -> bytes:
    r"""Return a value as QEMU encodes it: ASCII, ``", "`` and ``": "``, ``\uXXXX`` in upper case.

    Any depth, keys in their order, numbers in their spelling. Never raises for a value from `Framer`. Code points that
    QEMU's parser refuses (surrogates, noncharacters) become U+FFFD, as in QEMU's writer. Source: QEMU qobject/qjson.c:
    to_json, qobject/json-writer.c.
    """
    try:
        text = encode_basestring_ascii(value) if type(value) is str else _ordinary(value)
        # the standard library differs only in the case of its \uXXXX and in DEL
        if "\\u" not in text and "\x7f" not in text:
            return text.encode("ascii")
    except (TypeError, RecursionError):  # it has a Number, or is deep
        pass
    return "".join(_fragments(value, _AS_QEMU)).encode("ascii")


def encode_for_qemu(value: Value) -> bytes:
    """Return a value in the fewest bytes that QEMU reads as the same: no spaces, and UTF-8 in place of most escapes.

    QEMU reads its monitor one byte for each turn of its main loop (monitor/monitor.c: monitor_can_read returns 1), so
    bytes are the dearest part of a request. It is for values from `Framer`, which have no code point that QEMU's parser
    refuses (qobject/json-parser.c: parse_string). Never raises for these.
    """
    try:
        return "".join(_shortest(value, 0)).encode()
    except (TypeError, RecursionError):  # it has a Number, or is deep
        return "".join(fragments_for_qemu(value)).encode()


def fragments_for_qemu(value: Value) -> Iterator[str]:
    """Yield the text of `encode_for_qemu` in small fragments, for `pieces`. Never raises."""
    return _fragments(value, _FOR_QEMU)


def echo(value: Value) -> bytes:
    """Return a value as QEMU writes one that it has parsed: as `encode`, but ``2.0`` is 2, and 0.1 has 17 digits.

    A number too large for a double keeps its spelling: QEMU writes ``inf``, which no client can parse.
    Source: QEMU qobject/json-parser.c: parse_literal, qobject/json-writer.c: json_writer_double.
    """
    if type(value) is str or (type(value) is int and abs(value) < 1 << 63):
        return encode(value)
    return b"".join(echo_in_pieces(value))


def echo_in_pieces(value: Value) -> Iterator[bytes]:
    """Yield the bytes of `echo` in pieces of some milliseconds each, for any value. Never raises."""
    return pieces(_fragments(value, _AS_READ))


def _reread(text: str) -> str:
    """Return a number as QEMU writes it after parsing it."""
    if text.lstrip("-").isdecimal() and len(text) <= _INT64_SIZE and -(1 << 63) <= int(text) < 1 << 64:
        return str(int(text))
    number = float(text)
    return text if isinf(number) else f"{number:.17g}"


def pieces(fragments: Iterable[str]) -> Iterator[bytes]:
    """Yield fragments of text joined to non-empty pieces of some milliseconds each. Never raises."""
    gathered: list[str] = []
    size = 0
    for fragment in fragments:
        gathered.append(fragment)
        size += len(fragment)
        if size >= PIECE:
            yield "".join(gathered).encode()
            gathered.clear()
            size = 0
    if gathered:
        yield "".join(gathered).encode()


def _fragments(value: Value, spelling: _Spelling) -> Iterator[str]:
    """Yield the text of a value; each fragment encodes at most PIECE characters."""
    unfinished: list[tuple[Iterator[tuple[str, str | None, Value]], str]] = [(iter([("", None, value)]), "")]
    while unfinished:
        members, closing = unfinished[-1]
        for separator, key, member in members:
            yield separator
            if key is not None:
                yield from _string(key, spelling)
                yield spelling.colon
            if isinstance(member, dict):
                yield "{"
                unfinished.append((_pairs(member, spelling.comma), "}"))
                break
            if isinstance(member, list):
                yield "["
                unfinished.append((_items(member, spelling.comma), "]"))
                break
            if isinstance(member, str):
                yield from _string(member, spelling)
            else:
                yield _scalar(member, spelling)
        else:
            yield closing
            unfinished.pop()


def _pairs(members: dict[str, Value], comma: str) -> Iterator[tuple[str, str, Value]]:
    separator = ""
    for key, value in members.items():
        yield separator, key, value
        separator = comma


def _items(items: list[Value], comma: str) -> Iterator[tuple[str, None, Value]]:
    separator = ""
    for item in items:
        yield separator, None, item
        separator = comma


def _string(text: str, spelling: _Spelling) -> Iterator[str]:
    if len(text) <= PIECE:
        yield spelling.string(text)
        return
    yield '"'
    for start in range(0, len(text), PIECE):
        yield spelling.string(text[start : start + PIECE])[1:-1]
    yield '"'


def _scalar(value: bool | int | Number | None, spelling: _Spelling) -> str:
    match value:
        case None:
            return "null"
        case bool():  # before int, which it is too
            return "true" if value else "false"
        case int():
            return spelling.number(str(value))
        case _:
            return spelling.number(value.text)


def _quote(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in _SHORT:
        return _SHORT[char]
    point = ord(char)
    if 0xD800 <= point <= 0xDFFF or 0xFDD0 <= point <= 0xFDEF or point & 0xFFFE == 0xFFFE:
        point = _REPLACEMENT
    if point <= 0xFFFF:
        return f"\\u{point:04X}"
    point -= 0x10000
    return f"\\u{0xD800 + (point >> 10):04X}\\u{0xDC00 + (point & 0x3FF):04X}"


@dataclass(frozen=True, slots=True)
class _Spelling:
    """The encoding of strings and of the texts of numbers, and what stands between items and after keys."""

    string: Callable[[str], str]
    number: Callable[[str], str]
    comma: str = ", "
    colon: str = ": "


_AS_QEMU = _Spelling(_quote, str)
_AS_READ = _Spelling(_quote, _reread)
_FOR_QEMU = _Spelling(encode_basestring, str, ",", ":")
