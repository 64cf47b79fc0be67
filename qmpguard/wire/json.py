"""QEMU's dialect of JSON: what its values are in Python, and how QEMU spells them.

Reading is in `qmpguard.wire.framing`, because in this dialect a message ends where its brackets balance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from math import isinf
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Number:
    """A number kept as it was spelled, because an `int` would not give it back: ``2.0``, ``1e400``, ``-0``."""

    text: str


Value: TypeAlias = bool | int | str | Number | list["Value"] | dict[str, "Value"] | None

#: everything that QEMU does not write as it is (qobject/json-writer.c: quoted_str)
_ESCAPED = re.compile(r'["\\]|[^ -~]')
_SHORT = {'"': r"\"", "\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_REPLACEMENT = 0xFFFD
#: the longest integer that QEMU keeps as one, with its sign
_INT64_SIZE = 20

_ordinary = JSONEncoder(check_circular=False).encode

_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*')


def encode(value: Value) -> bytes:
    r"""Return a value in QEMU's own words: ASCII, ``", "`` and ``": "``, ``\uXXXX`` in upper case.

    Any depth, keys in their order, numbers as they were spelled. Never raises for what `Framer` returns. Code
    points that QEMU's reader refuses (surrogates, noncharacters) become U+FFFD, as in QEMU's writer. Source:
    QEMU qobject/qjson.c: to_json, qobject/json-writer.c.
    """
    try:
        text = encode_basestring_ascii(value) if type(value) is str else _ordinary(value)
    except (TypeError, RecursionError):  # it has a Number, or is deep
        text = _write(value)
    else:
        # the standard library differs in the case of its \uXXXX and in DEL, and in nothing else
        if "\\u" in text or "\x7f" in text:
            text = _write(value)
    return text.encode("ascii")


def encode_for_qemu(value: Value) -> bytes:
    r"""Return a value for QEMU to read: as `encode`, but ``\uXXXX`` in lower case, which is as good and much quicker.

    For what `Framer` returns, in which no code point is left that QEMU's reader refuses. Never raises.
    """
    try:
        return _ordinary(value).encode("ascii")
    except (TypeError, RecursionError):  # it has a Number, or is deep
        return _write(value).encode("ascii")


def echo(value: Value) -> bytes:
    """Return a value as QEMU writes one that it has read: as `encode`, but ``2.0`` is 2, and 0.1 has seventeen digits.

    A number too large for a double stays as it was spelled: QEMU writes ``inf``, which no client can read.
    Source: QEMU qobject/json-parser.c: parse_literal, qobject/json-writer.c: json_writer_double.
    """
    text = encode(value)
    if isinstance(value, str) or (type(value) is int and abs(value) < 1 << 63):
        return text
    return _STRING_OR_NUMBER.sub(_reread, text.decode("ascii")).encode("ascii")


def _reread(match: re.Match[str]) -> str:
    text = match[0]
    if text[0] == '"':
        return text
    if text.lstrip("-").isdecimal() and len(text) <= _INT64_SIZE and -(1 << 63) <= int(text) < 1 << 64:
        return str(int(text))
    number = float(text)
    return text if isinf(number) else f"{number:.17g}"


def _write(value: Value) -> str:
    out: list[str] = []
    unfinished: list[tuple[Iterator[tuple[str, Value]], str]] = [(iter([("", value)]), "")]
    while unfinished:
        members, closing = unfinished[-1]
        for lead, member in members:
            out.append(lead)
            if isinstance(member, dict):
                out.append("{")
                unfinished.append((_pairs(member), "}"))
                break
            if isinstance(member, list):
                out.append("[")
                unfinished.append((_items(member), "]"))
                break
            out.append(_scalar(member))
        else:
            out.append(closing)
            unfinished.pop()
    return "".join(out)


def _pairs(members: dict[str, Value]) -> Iterator[tuple[str, Value]]:
    separator = ""
    for key, value in members.items():
        yield f"{separator}{_quote(key)}: ", value
        separator = ", "


def _items(items: list[Value]) -> Iterator[tuple[str, Value]]:
    separator = ""
    for item in items:
        yield separator, item
        separator = ", "


def _scalar(value: bool | int | str | Number | None) -> str:
    match value:
        case None:
            return "null"
        case bool():  # before int, which it is too
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _quote(value)
        case _:
            return value.text


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
