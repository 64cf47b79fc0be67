"""Splits QEMU's dialect of JSON into tokens, however its bytes arrive. It has no grammar and no messages.

The states are those of QEMU qobject/json-lexer.c without interpolation, which QMP does not enable. Bytes are handled as
text of the same code points (Latin-1): strings are decoded in the parser, as in QEMU.
"""

from __future__ import annotations

import re
from enum import Enum
from string import ascii_lowercase
from typing import Final

#: bytes of a block: the caller may yield to other sessions between two blocks
BLOCK: Final = 64 << 10


class Kind(Enum):
    """The kind of a token."""

    LCURLY = "{"
    RCURLY = "}"
    LSQUARE = "["
    RSQUARE = "]"
    COLON = ":"
    COMMA = ","
    INTEGER = "integer"
    FLOAT = "float"
    KEYWORD = "keyword"
    STRING = "string"
    STRAY = "stray"  # a lexical error: the incomplete token with the byte that cannot be part of it
    OVERLONG = "overlong"  # an incomplete token that is one byte longer than the limit; its end will be a token


class _State:
    """A state of the lexer.

    ``run`` matches bytes that do not change the state. A byte in ``leads`` is consumed, and leads to a state or
    completes a token. At any other byte ``otherwise`` applies without consuming it; only `Kind.STRAY` consumes it.
    """

    __slots__ = ("leads", "otherwise", "run")

    def __init__(self, run: str | None = None, otherwise: Kind | _State = Kind.STRAY) -> None:
        self.run = None if run is None else re.compile(run)
        self.otherwise = otherwise
        self.leads: dict[str, Kind | _State] = {}


_DIGIT = "0123456789"
_PRINTABLE = "".join(map(chr, range(0x20, 0xFE)))  # 0xFE and 0xFF are impossible in UTF-8

START = _State(r"[ \t\r\n]+")
# after an error, structural characters and control characters other than tab begin a new message
_RECOVERY = _State(r"[^\x00-\x08\x0a-\x1f\xfe\xff\[\]{}:,]+", otherwise=START)
_DOUBLE = _State(r'[^"\\\x00-\x1f\xfe\xff]*(?:\\[\x20-\xfd][^"\\\x00-\x1f\xfe\xff]*)*')
_DOUBLE_ESCAPE = _State()
_SINGLE = _State(r"[^'\\\x00-\x1f\xfe\xff]*(?:\\[\x20-\xfd][^'\\\x00-\x1f\xfe\xff]*)*")
_SINGLE_ESCAPE = _State()
_SIGN = _State()
_ZERO = _State(otherwise=Kind.INTEGER)
_DIGITS = _State(r"[0-9]+", otherwise=Kind.INTEGER)
_POINT = _State()
_FRACTION = _State(r"[0-9]+", otherwise=Kind.FLOAT)
_E = _State()
_E_SIGN = _State()
_EXPONENT = _State(r"[0-9]+", otherwise=Kind.FLOAT)
_KEYWORD = _State(r"[a-z]+", otherwise=Kind.KEYWORD)

START.leads = {
    **dict.fromkeys(ascii_lowercase, _KEYWORD),
    **dict.fromkeys("123456789", _DIGITS),
    **{kind.value: kind for kind in Kind if len(kind.value) == 1},
    '"': _DOUBLE,
    "'": _SINGLE,
    "0": _ZERO,
    "-": _SIGN,
}
_DOUBLE.leads = {"\\": _DOUBLE_ESCAPE, '"': Kind.STRING}
_DOUBLE_ESCAPE.leads = dict.fromkeys(_PRINTABLE, _DOUBLE)
_SINGLE.leads = {"\\": _SINGLE_ESCAPE, "'": Kind.STRING}
_SINGLE_ESCAPE.leads = dict.fromkeys(_PRINTABLE, _SINGLE)
_SIGN.leads = {"0": _ZERO, **dict.fromkeys("123456789", _DIGITS)}
_ZERO.leads = {".": _POINT, **dict.fromkeys(_DIGIT, Kind.STRAY)}  # no exponent: QEMU reads 0e1 as 0, e, 1
_DIGITS.leads = {".": _POINT, "e": _E, "E": _E}
_POINT.leads = dict.fromkeys(_DIGIT, _FRACTION)
_FRACTION.leads = {"e": _E, "E": _E}
_E.leads = {"+": _E_SIGN, "-": _E_SIGN, **dict.fromkeys(_DIGIT, _EXPONENT)}
_E_SIGN.leads = dict.fromkeys(_DIGIT, _EXPONENT)


class Lexer:
    """Turns bytes into tokens; ``limit`` is the size above which a token is not kept."""

    def __init__(self, limit: int) -> None:
        self.text = ""  # the block that is being scanned
        self.position = 0  # in it
        self._limit = limit
        self.state = START
        self._token = bytearray()  # the beginning of a token, from earlier blocks
        self._overlong = False  # the token was reported as overlong, and its rest is dropped
        self.inbox = bytearray()  # the bytes after the block

    def feed(self, data: bytes) -> None:
        """Append bytes."""
        if self.inbox or self.position < len(self.text) or len(data) > BLOCK:
            self.inbox += data
        else:  # usually the bytes are the next block
            self.text, self.position = data.decode("latin-1"), 0

    def turn(self) -> None:
        """Begin the next block, after this one is consumed."""
        self.text = self.inbox[:BLOCK].decode("latin-1")
        self.position = 0
        del self.inbox[:BLOCK]

    @property
    def unscanned(self) -> int:
        """The number of bytes that were not scanned yet."""
        return len(self.inbox) + len(self.text) - self.position

    @property
    def held(self) -> int:
        """The number of bytes held, with those of the incomplete token."""
        return self.unscanned + len(self._token)

    def next(self) -> tuple[Kind, str] | None:
        """Return the next token, None if the block ends before it does.

        Never raises. Source: QEMU qobject/json-lexer.c: json_lexer_feed_char.
        """
        text, position, state = self.text, self.position, self.state
        start = position
        while True:
            if state.run is not None and (run := state.run.match(text, position)):
                position = run.end()
            if state is START or state is _RECOVERY:
                start = position
            elif not self._overlong and len(self._token) + position - start > self._limit:
                return self._cut(start, position, state)
            if position == len(text):
                break
            target = state.leads.get(text[position])
            if target is not None:
                position += 1
            else:
                target = state.otherwise
                position += target is Kind.STRAY
            if isinstance(target, Kind):
                return self._finish(target, start, position)
            state = target
        if not self._overlong:
            self._token += text[start:].encode("latin-1")
        self.position, self.state = position, state
        return None

    def _cut(self, start: int, position: int, state: _State) -> tuple[Kind, str]:
        text = (self._token.decode("latin-1") + self.text[start:position])[: self._limit + 1]
        self._token.clear()
        self.position, self.state, self._overlong = position, state, True
        return Kind.OVERLONG, text

    def _finish(self, kind: Kind, start: int, end: int) -> tuple[Kind, str]:
        text = self.text[start:end]
        if self._token:
            text = self._token.decode("latin-1") + text
            self._token.clear()
        self.position, self._overlong = end, False
        self.state = _RECOVERY if kind is Kind.STRAY else START
        return kind, text
