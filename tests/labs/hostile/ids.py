"""Ids of every size and shape, and how each is to come back."""

from __future__ import annotations

import json
import re
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(rb"-?\d[-+.eE\d]*")


class Id(NamedTuple):
    """An id as it is sent (None: none is), and whether a reply's id is its echo."""

    raw: bytes | None
    is_echo: Callable[[bytes | None], bool]


def text(value: str) -> Id:
    """Return a string as an id."""
    return Id(json.dumps(value).encode(), lambda echo: echo is not None and _string(echo) == value)


def _string(echo: bytes) -> object:
    try:
        return json.loads(echo)
    except (ValueError, RecursionError):
        return None


def spelled(raw: bytes, value: str) -> Id:
    """Return a string as an id, in a spelling of its own."""
    return text(value)._replace(raw=raw)


def number(raw: bytes) -> Id:
    """Return a number as an id; how QEMU spells a number that has no exact double is its own affair."""
    return Id(raw, lambda echo: echo is not None and _NUMBER.fullmatch(echo) is not None)


def structure(raw: bytes) -> Id:
    """Return something without strings that hold blanks, as an id."""
    return Id(raw, lambda echo: echo is not None and echo.replace(b" ", b"") == raw)


#: what ids may be: each makes one, of a serial number that no other request of its client has
SHAPES: Mapping[str, Callable[[Random, int], Id]] = {
    "absent": lambda r, n: Id(None, lambda echo: echo is None),
    "null": lambda r, n: structure(b"null"),
    "bool": lambda r, n: structure(b"true"),
    "small": lambda r, n: structure(b"%d" % n),
    "negative": lambda r, n: structure(b"-%d" % (n + 1)),
    "like one of the guard's": lambda r, n: structure(b"%d" % r.randrange(100)),
    "5,000 digits": lambda r, n: number(b"1" * 5000),
    "-5,000 digits": lambda r, n: number(b"-" + b"9" * 5000),
    "1e400": lambda r, n: number(b"1e400"),
    "fraction": lambda r, n: number(b"0." + b"3" * 400),
    "2**64": lambda r, n: number(b"18446744073709551616"),
    "string": lambda r, n: text(f"s{n}"),
    "empty": lambda r, n: text(""),
    "escapes": lambda r, n: spelled(b'"\\u0041\\n\\t\\\\\\"\\/%d"' % n, f'A\n\t\\"/{n}'),
    "controls": lambda r, n: text(f"\0\x01\x1b[2J\x7f\r\n{n}"),
    "other planes": lambda r, n: spelled(b'"\\ud83d\\ude00\\u20ac%d"' % n, f"\U0001f600\u20ac{n}"),
    "like a reply": lambda r, n: text(f'"}}\r\n{{"return": {{}}, "id": {n}}}'),
    "like a member": lambda r, n: text(f', "id": {n}}}\r\n'),
    "1,000 lists": lambda r, n: structure(b"[" * 1000 + b"]" * 1000),
    "1,000 objects": lambda r, n: structure(b'{"a":' * 1000 + b"1" + b"}" * 1000),
    "20,000 lists side by side": lambda r, n: structure(b"[" + b",".join([b"[]"] * 20_000) + b"]"),
    "object": lambda r, n: structure(b'{"n":%d,"odd":[null,true,{}]}' % n),
    "100 KB": lambda r, n: text(f"{n}" + "x" * 100_000),
    "100 KB of controls": lambda r, n: text(f"{n}" + "\x01" * 16_000),
    "1 MiB": lambda r, n: text(f"{n}" + "y" * (1 << 20)),
}
#: of these, those that cost a client and the guard little: tests take the others now and then
SMALL = tuple(name for name in SHAPES if not name.startswith(("100 KB", "1 MiB", "20,000")))


def any_id(random: Random, serial: int) -> tuple[str, Id]:
    """Return an id and its shape's name; one in thirty is large."""
    name = random.choice(tuple(SHAPES) if random.random() < 0.2 else SMALL)
    return name, SHAPES[name](random, serial)


def echo_of(reply: bytes) -> bytes | None:
    """Return the id of a reply as it is written there; None: it has none."""
    if reply.startswith(b'{"id": '):
        if (end := reply.rfind(b', "error": {"class": ')) >= 0:
            return reply[7:end]
        if short := _STRING.match(reply, 7):  # of a reply that is none of QEMU's
            return short[0]
    place = reply.rfind(b', "id": ')
    return reply[place + 8 : reply.rstrip().rfind(b"}")] if place >= 0 else None
