"""Parses tokens one at a time into a value: QEMU's grammar, and its decoding of strings and numbers.

QEMU collects the tokens of a message and then parses them recursively. Here the first error is kept until the message
ends, so that both report the same one (QEMU qobject/json-parser.c). Nesting uses a list, not the call stack.
"""

from __future__ import annotations

import re
from enum import Enum
from json import JSONDecoder
from typing import Final

from qmpguard.wire.json import Number, Value
from qmpguard.wire.lexer import Kind

#: bytes of the buffer for an error, without its NUL (qobject/json-parser.c: parse_error)
MAX_FAULT: Final = 1023
#: integers with more digits cannot have 64 bits and keep their spelling
MAX_DIGITS: Final = 20

# well-formed UTF-8 beyond ASCII, without noncharacters and with QEMU's C0 80 for NUL
# (util/unicode.c: mod_utf8_codepoint, is_valid_codepoint)
_UTF8 = (
    r"\xc0\x80|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    r"|\xef(?!\xb7[\x90-\xaf]|\xbf[\xbe\xbf])[\x80-\xbf]{2}"
    r"|(?![\xf0-\xf4][\x8f\x9f\xaf\xbf]\xbf[\xbe\xbf])"
    r"(?:\xf0[\x90-\xbf]|[\xf1-\xf3][\x80-\xbf]|\xf4[\x80-\x8f])[\x80-\xbf]{2}"
)
_HIGH = r"\\u[Dd][89ABab][0-9A-Fa-f]{2}"
_LOW = r"\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}"
# the elements of a valid string; a bounded number of them, since the regex engine stores each
_SOUND = re.compile(
    r"(?:[ -\[\]-\x7f]+"
    r"|\\[\"'\\/bfnrt]"
    r"|\\u(?![Dd][89A-Fa-f]|[Ff][Dd][DEde]|[Ff]{3}[EFef])[0-9A-Fa-f]{4}"
    rf"|(?!\\u..[37BFbf][Ff]\\u[Dd][Ff]{{2}}[EFef]){_HIGH}{_LOW}"
    rf"|{_UTF8}){{1,4096}}"
)
_PAIR = re.compile(_HIGH + _LOW)
_SEQUENCE = re.compile(
    rf"({_UTF8})|[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{{0,2}}|[\xf0-\xf7][\x80-\xbf]{{0,3}}"
    r"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xff]"
)
_NO_CHARACTER = re.compile(
    "[\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)
#: parts of the UTF-8 of every noncharacter, and of some other characters
_NO_CHARACTER_HERE = ("\xef\xb7", "\xbf\xbe", "\xbf\xbf")
_unescape = JSONDecoder(strict=False).decode
_KEYWORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class Fault(ValueError):  # noqa: N818  -- an error of the client
    """A message violates the grammar; its text is QEMU's."""


class _Expect(Enum):
    VALUE = 0
    FIRST_ITEM = 1
    ITEM = 2
    AFTER_ITEM = 3
    FIRST_KEY = 4
    KEY = 5
    COLON = 6
    MEMBER = 7
    AFTER_MEMBER = 8


class Parser:
    """The parser of one message. ``value`` is its value when it is complete, ``fault`` the first error in it."""

    def __init__(self) -> None:
        self.value: Value = None
        self.fault: str | None = None
        self._expect = _Expect.VALUE
        self._list: list[Value] = []  # the innermost container: one of these two, by what is expected
        self._dict: dict[str, Value] = {}
        self._key = ""
        self._outer: list[tuple[_Expect, list[Value], dict[str, Value], str]] = []

    def accept(self, kind: Kind, text: str) -> None:
        """Process the message's next token. After a fault, tokens are ignored."""
        if self.fault is not None:
            return
        try:
            self._step(kind, text)
        except Fault as fault:
            self.fault = f"JSON parse error, {fault}"
            self._list, self._dict, self._outer = [], {}, []

    def _step(self, kind: Kind, text: str) -> None:
        expect = self._expect
        if expect is _Expect.AFTER_ITEM:
            self._after(kind, Kind.RSQUARE, _Expect.ITEM, "expected separator in list")
        elif expect is _Expect.AFTER_MEMBER:
            self._after(kind, Kind.RCURLY, _Expect.KEY, "expected separator in dict")
        elif expect is _Expect.COLON:
            if kind is not Kind.COLON:
                raise Fault("missing : in object pair")
            self._expect = _Expect.MEMBER
        elif (kind is Kind.RSQUARE and expect is _Expect.FIRST_ITEM) or (
            kind is Kind.RCURLY and expect is _Expect.FIRST_KEY
        ):
            self._close()
        elif kind is Kind.LCURLY:
            self._open(_Expect.FIRST_KEY)
        elif kind is Kind.LSQUARE:
            self._open(_Expect.FIRST_ITEM)
        else:
            self._complete(read_scalar(kind, text))

    def _after(self, kind: Kind, closing: Kind, following: _Expect, fault: str) -> None:
        if kind is Kind.COMMA:
            self._expect = following
        elif kind is closing:
            self._close()
        else:
            raise Fault(fault)

    def _open(self, expect: _Expect) -> None:
        self._outer.append((self._expect, self._list, self._dict, self._key))
        self._expect, self._list, self._dict = expect, [], {}

    def _close(self) -> None:
        is_list = self._expect in (_Expect.FIRST_ITEM, _Expect.AFTER_ITEM)
        value: Value = self._list if is_list else self._dict
        self._expect, self._list, self._dict, self._key = self._outer.pop()
        self._complete(value)

    def _complete(self, value: Value) -> None:
        """Put a value where one was expected."""
        expect = self._expect
        if expect is _Expect.VALUE:
            self.value = value
        elif expect is _Expect.MEMBER:
            if self._key in self._dict:
                raise Fault("duplicate key")
            self._dict[self._key] = value
            self._expect = _Expect.AFTER_MEMBER
        elif expect in (_Expect.FIRST_ITEM, _Expect.ITEM):
            self._list.append(value)
            self._expect = _Expect.AFTER_ITEM
        elif isinstance(value, str):
            self._key, self._expect = value, _Expect.COLON
        else:
            raise Fault("key is not a string in object")


def read_scalar(kind: Kind, text: str) -> Value:
    """Return the value of a token. Raises `Fault` if it has none. Source: parse_value, parse_keyword."""
    if kind is Kind.STRING:
        return read_string(text)
    if kind is Kind.INTEGER:
        return read_integer(text)
    if kind is Kind.FLOAT:
        return Number(text)
    if kind is not Kind.KEYWORD:
        raise Fault("expecting value")
    if text not in _KEYWORDS:
        raise Fault(f"invalid keyword '{text}'"[:MAX_FAULT])
    return _KEYWORDS[text]


def read_integer(text: str) -> int | Number:
    """Return an integer as `int` if that keeps its spelling and it may have 64 bits. Never raises."""
    if text == "-0" or len(text.lstrip("-")) > MAX_DIGITS:
        return Number(text)
    return int(text)


def read_string(token: str) -> str:
    """Return the text of a string token. Raises `Fault` at the first part of it that QEMU refuses.

    Source: QEMU qobject/json-parser.c: parse_string.
    """
    body = token[1:-1]
    if "\\" not in body and body.isascii():
        return body
    if (text := _read_quickly(body)) is not None:
        return text
    return _read_carefully(token)


def _read_quickly(body: str) -> str | None:
    """Return a string's content as the standard library decodes it; None where QEMU may decode it differently.

    The library is much faster. It is stricter than QEMU, except for the code points that QEMU refuses as characters.
    """
    try:
        text = body if body.isascii() else body.encode("latin-1").decode()
        if "\\" in text:
            text = str(_unescape(f'"{text}"'))
    except ValueError:
        return None
    if any(some in body for some in _NO_CHARACTER_HERE) or ("\\u" in body and _NO_CHARACTER.search(text)):
        return None
    return text


def _read_carefully(token: str) -> str:
    body = token[1:-1]
    end = 0
    while sound := _SOUND.match(body, end):
        end = sound.end()
    if end < len(body):
        raise Fault(_complaint(token, end + 1))
    # replace escaped backslashes first: then each backslash begins an escape; no string has a raw \x01
    body = body.replace(r"\\", "\x01").replace(r"\'", "'").replace(r"\"", '"')
    body = body.replace('"', r"\"").replace("\x01", r"\\").replace("\xc0\x80", "\0")
    return str(_unescape('"' + body.encode("latin-1").decode() + '"'))


def _complaint(token: str, at: int) -> str:
    if token[at] != "\\":
        return "invalid UTF-8 sequence in string"
    if token[at + 1] != "u":
        return "invalid escape sequence in string"
    pair = _PAIR.match(token, at)
    return f"{legible(pair[0] if pair else token[at : at + 6])} is not a valid Unicode character"


def legible(text: str) -> str:
    """Return bytes of a client as text, with U+FFFD where QEMU writes it. Never raises.

    Source: QEMU qobject/json-writer.c: quoted_str, util/unicode.c: mod_utf8_codepoint.
    """
    sound = _SEQUENCE.sub(lambda match: match[0] if match[1] else "\xef\xbf\xbd", text)
    return sound.replace("\xc0\x80", "\0").encode("latin-1").decode()
