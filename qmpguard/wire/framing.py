"""Splits a client's bytes into messages exactly as QEMU does, with QEMU's error texts for invalid ones.

QEMU frames by structure: a message ends when its brackets balance or can no longer balance, and after a lexical error
a new one begins. Ordinary messages are parsed by the standard library at once; all others, and every doubtful one, by
`Lexer` and `Parser`. At a disconnection QEMU drops an incomplete message (monitor/qmp.c: monitor_qmp_event), so there
is no method for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from json import JSONDecoder
from typing import Final

from qmpguard.wire.json import Number, Value
from qmpguard.wire.lexer import START, Kind, Lexer
from qmpguard.wire.parser import Fault, Parser, legible, read_integer

#: bytes of a message's tokens; QEMU's limit is 64 MiB (qobject/json-streamer.c: MAX_TOKEN_SIZE), which no client needs
MAX_REQUEST = 4 << 20
#: QEMU's limit (qobject/json-streamer.c: MAX_TOKEN_COUNT), less the tokens of `, "id": N`, which re-encoding adds
MAX_TOKENS = (2 << 20) - 4
#: QEMU qobject/json-streamer.c: MAX_NESTING
MAX_NESTING = 1 << 10
#: bytes of a stray token in an error. QEMU quotes the whole token, and each byte may become six in the reply
MAX_STRAY: Final = 64 << 10
#: tokens in one `Framer.pull`, which takes a few milliseconds; the lexer's block limits the bytes
BUDGET: Final = 1024

#: estimated bytes of memory for a token: an empty list is three tokens with its comma, a number is two
NODE: Final = 64
#: bytes of a message that is too small to count its tokens
SMALL: Final = 4096

_LINE_ENDS = ("\r\n", "\n")
_SPACE = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class Message:
    """A well-formed JSON value: an object or any other."""

    value: Value


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are not a message, with QEMU's error text: ``JSON parse error, stray 'x'``."""

    desc: str


class Framer:
    """Bytes in, messages out, at most ``max_size`` bytes of tokens each.

    Invalid input is an item, never an exception. The time is linear in the bytes, however they are split. The action
    after an exceeded limit decides which later bytes are a request: QEMU up to 11.0 begins a new message at once. With
    ``skips``, as in QEMU 11.1, the rest of the message is skipped until its brackets balance; so it is always after the
    guard's own limit of size, where QEMU would read on. Source: QEMU qobject/json-streamer.c:
    json_message_process_token.
    """

    def __init__(self, *, max_size: int = MAX_REQUEST, skips: bool = False) -> None:
        self._max_size = max_size
        self._skips = skips
        self._skipping = False
        self._lexer = Lexer(max_size)
        #: takes bytes; they are not looked at before `pull`
        self.feed = self._lexer.feed
        self._parser = Parser()
        self._braces = 0
        self._brackets = 0
        self._tokens = 0
        self._size = 0
        self.size = 0  # estimated bytes of memory of the last message: its text and its value

    @property
    def busy(self) -> bool:
        """Say whether `pull` has bytes left to process."""
        lexer = self._lexer
        return lexer.position < len(lexer.text) or len(lexer.inbox) > 0

    @property
    def held(self) -> int:
        """Bytes held: those not processed yet, and the size of the incomplete message in memory."""
        return self._lexer.held + self._size + NODE * self._tokens

    def pull(self, budget: int = BUDGET) -> Message | Malformed | None:
        """Return the next item. None: it needs more bytes, or, if `busy`, another call after other sessions' turn.

        A call processes at most 64 KiB and ``budget`` tokens, which is positive. Never raises.
        """
        lexer = self._lexer
        if lexer.position == len(lexer.text):
            lexer.turn()
        if not self._tokens and lexer.state is START and (message := self._read_ordinary()):
            return message
        for _ in range(budget):
            token = lexer.next()
            if token is None:
                break
            if item := self._process(*token):
                return item
        return None

    def pull_whole(self) -> Message | Malformed | None:
        """Return the next item without yielding to other sessions. None: it needs more bytes."""
        while (item := self.pull()) is None and self.busy:
            pass
        return item

    def _read_ordinary(self) -> Message | None:
        """Return an object that is complete in the block and that the standard library parses as QEMU does.

        None: no byte is consumed, and the first token goes to the parser. So each message is tried only once.
        """
        lexer = self._lexer
        text, start = lexer.text, lexer.position
        if not text.startswith("{", start):
            if not (space := _SPACE.match(text, start)):
                return None
            start = lexer.position = space.end()
            if not text.startswith("{", start):
                return None
        try:
            value, end = _decode(text, start)
        except (ValueError, RecursionError):
            return None
        if end - start >= self._max_size or not _is_ordinary(text, start, end):
            return None
        self.size = end - start
        if self.size > SMALL:
            self.size += 2 * NODE * text.count(",", start, end)
        # with the newline the block is usually consumed
        lexer.position = len(text) if text[end : end + 3] in _LINE_ENDS else end
        return Message(value)

    def _process(self, kind: Kind, text: str) -> Message | Malformed | None:
        if self._skipping:
            self._skip(kind)
            return None
        if kind is Kind.STRAY:
            # QEMU prints it as a C string
            quoted = legible(text.partition("\0")[0][:MAX_STRAY])
            return self._end(Malformed(f"JSON parse error, stray '{quoted}'"))
        self._count(kind)
        if limit := self._exceeds(len(text)):
            return self._over_limit(limit, kind)
        self._tokens += 1
        self._size += len(text)
        self._parser.accept(kind, text)
        if self._is_open():
            return None
        if self._parser.fault is not None:
            return self._end(Malformed(self._parser.fault))
        return self._end(Message(self._parser.value))

    def _count(self, kind: Kind) -> None:
        if kind is Kind.LCURLY:
            self._braces += 1
        elif kind is Kind.RCURLY:
            self._braces -= 1
        elif kind is Kind.LSQUARE:
            self._brackets += 1
        elif kind is Kind.RSQUARE:
            self._brackets -= 1

    def _exceeds(self, size: int) -> str | None:
        if self._size + size + 1 > self._max_size:
            return "token size"
        if self._tokens + 1 > MAX_TOKENS:
            return "token count"
        if self._braces + self._brackets > MAX_NESTING:
            return "nesting depth"
        return None

    def _over_limit(self, limit: str, kind: Kind) -> Malformed:
        error = Malformed(f"JSON {limit} limit exceeded")
        # the rest of an overlong token follows, even without open brackets
        is_over = not self._is_open() and kind is not Kind.OVERLONG
        if is_over or not (self._skips or limit == "token size"):
            self._begin()
        else:
            self._parser, self._size, self._skipping = Parser(), 0, True
            self._tokens = 1
        return error

    def _skip(self, kind: Kind) -> None:
        self._count(kind)
        if kind is Kind.STRAY or not self._is_open():
            self._begin()

    def _is_open(self) -> bool:
        return self._braces >= 0 and self._brackets >= 0 and (self._braces > 0 or self._brackets > 0)

    def _end(self, item: Message | Malformed) -> Message | Malformed:
        self.size = self._size + NODE * self._tokens
        self._begin()
        return item

    def _begin(self) -> None:
        self._parser, self._skipping = Parser(), False
        self._braces = self._brackets = self._tokens = self._size = 0


def _is_ordinary(text: str, start: int, end: int) -> bool:
    r"""Say whether QEMU parses an object like the standard library does.

    Excluded are ``\u``, which may encode a noncharacter, bytes beyond ASCII, which are not
    decoded here, and depth beyond the limit.
    """
    if text.find("\\u", start, end) >= 0 or not (text.isascii() or text[start:end].isascii()):
        return False
    if end - start < 2 * MAX_NESTING:
        return True
    return text.count("{", start, end) + text.count("[", start, end) <= MAX_NESTING


def _distinct(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Fault("duplicate key")
    return members


def _float(text: str) -> Number:
    if text.lstrip("-")[:2] in ("0e", "0E"):
        raise Fault("an exponent after zero: three tokens in QEMU")
    return Number(text)


def _constant(text: str) -> Value:
    raise Fault(f"{text} is not JSON")


_decode = JSONDecoder(
    object_pairs_hook=_distinct, parse_int=read_integer, parse_float=_float, parse_constant=_constant
).raw_decode
