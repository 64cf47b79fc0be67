"""Requests of clients, and the replies that the guard itself sends, with QEMU's texts.

A request is checked member by member in QEMU's order, so that an error has QEMU's text (QEMU qapi/qmp-dispatch.c:
qmp_dispatch_check_obj). The source of each text is beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.wire.json import (
    Value,
    echo,
    echo_in_pieces,
    encode,
    encode_for_qemu,
    fragments_for_qemu,
    pieces,
    quote_for_qemu,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERIC_ERROR = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"

#: QEMU monitor/qmp.c: monitor_qmp_dispatch()
NOT_NEGOTIATED = "Expecting capabilities negotiation with 'qmp_capabilities'"
#: QEMU qapi/qmp-dispatch.c: qmp_dispatch()
NOT_AN_OBJECT = "QMP input must be a JSON object"

#: the end of each message of QEMU (monitor/monitor.c: monitor_puts_locked turns \n into \r\n)
EOL = b"\r\n"


class Request(NamedTuple):
    """A well-formed request; ``id`` is the text of its id for the reply, None where it has none.

    It is a tuple, since one is created for every command and a frozen dataclass takes three times as long.
    """

    command: str
    arguments: dict[str, Value] | None
    id: bytes | None
    oob: bool

    def encode(self, number: int) -> bytes:
        """Return the request re-encoded in the fewest bytes, with the guard's ``number`` in place of the client's id.

        No line's end follows: QEMU takes an object when its last brace has come (qobject/json-streamer.c:
        json_message_process_token).
        """
        head = '{"exec-oob":' if self.oob else '{"execute":'
        if self.arguments is None:
            return f'{head}{quote_for_qemu(self.command)},"id":{number}}}'.encode()
        begin = f'{head}{quote_for_qemu(self.command)},"arguments":'.encode()
        return b'%b%b,"id":%d}' % (begin, encode_for_qemu(self.arguments), number)

    def pieces(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of `encode` in pieces of some milliseconds each, for a long request."""
        return pieces(self._fragments(number))

    def _fragments(self, number: int) -> Iterator[str]:
        yield '{"exec-oob":' if self.oob else '{"execute":'
        yield from fragments_for_qemu(self.command)
        if self.arguments is not None:
            yield ',"arguments":'
            yield from fragments_for_qemu(self.arguments)
        yield f',"id":{number}}}'


@dataclass(frozen=True, slots=True)
class BadRequest:
    """An invalid request: QEMU's error text, and the id for the reply."""

    desc: str
    id: bytes | None


class Echo:
    """The id of a long message for its reply, encoded in pieces. Without an id there is nothing to encode."""

    def __init__(self, value: Value) -> None:
        self.value = value
        self.text: bytes | None = None
        self._pieces = echo_in_pieces(value["id"]) if isinstance(value, dict) and "id" in value else None
        self._made: list[bytes] = []

    def is_made(self) -> bool:
        """Encode the next piece, in some milliseconds. True: ``text`` is complete; do not call it again."""
        if self._pieces is not None:
            if (piece := next(self._pieces, None)) is not None:
                self._made.append(piece)
                return False
            self.text = b"".join(self._made)
        return True


def read_request(value: Value, *, oob: bool, identity: bytes | None = None) -> Request | BadRequest:
    """Check a parsed message as QEMU does; ``oob``: the client has negotiated out-of-band.

    ``identity`` is the encoded id, if that exists already. Never raises. Of several errors the one is reported that is
    first in QEMU's order of members: the order of QEMU's hash table (QEMU qobject/qdict.c), not the client's.
    """
    if not isinstance(value, dict):
        return BadRequest(NOT_AN_OBJECT, None)
    has_id = "id" in value
    if has_id and identity is None:
        identity = echo(value["id"])
    ordinary = 1 + has_id  # the number of members that an ordinary request has: it has no others
    command, arguments = value.get("execute"), value.get("arguments")
    if type(command) is str:
        if type(arguments) is dict:
            if len(value) == ordinary + 1:
                return Request(command, arguments, identity, False)
        elif len(value) == ordinary:
            return Request(command, None, identity, False)
    return _check_members(value, identity, oob=oob)


def _check_members(value: dict[str, Value], identity: bytes | None, *, oob: bool) -> Request | BadRequest:
    command: str | None = None
    key: str | None = None
    arguments: dict[str, Value] | None = None
    names = [*reversed(value)]  # within a bucket the last member is first (qobject/qdict.c: qdict_put_obj)
    names.sort(key=_bucket)
    for name in names:
        member = value[name]
        if name == "execute" or (name == "exec-oob" and oob):
            if not isinstance(member, str):
                return BadRequest(f"QMP input member '{name}' must be a string", identity)
            if key is not None:
                return BadRequest(f"QMP input member '{name}' clashes with '{key}'", identity)
            key, command = name, member
        elif name == "arguments":
            if not isinstance(member, dict):
                return BadRequest("QMP input member 'arguments' must be an object", identity)
            arguments = member
        elif name != "id":
            return BadRequest(f"QMP input member '{name}' is unexpected", identity)
    if command is None:
        return BadRequest("QMP input lacks member 'execute'", identity)
    return Request(command, arguments, identity, oob=key == "exec-oob")


def _bucket(name: str) -> int:
    """Return the hash bucket of a member's name (QEMU qobject/qdict.c: tdb_hash, 512 buckets)."""
    text = name.replace("\0", "\udcc0\udc80").encode("utf-8", "surrogateescape")
    value = (0x238F13AF * len(text)) & 0xFFFFFFFF
    for i, byte in enumerate(text):
        value = (value + (byte << (i * 5 % 24))) & 0xFFFFFFFF
    return ((1103515243 * value + 12345) & 0xFFFFFFFF) % 512


def error_reply(desc: str, identity: bytes | None, *, kind: str = GENERIC_ERROR) -> bytes:
    """Return an error reply as QEMU writes it; ``kind`` is one of QEMU's error classes."""
    head = b"{" if identity is None else b'{"id": %b, ' % identity
    return b'%b"error": {"class": %b, "desc": %b}}\r\n' % (head, encode(kind), encode(desc))


def success_reply(value: Value, identity: bytes | None) -> bytes:
    """Return a success reply as QEMU writes it."""
    tail = b"}\r\n" if identity is None else b', "id": %b}\r\n' % identity
    return b'{"return": %b%b' % (encode(value), tail)


def read_enable(arguments: dict[str, Value] | None, offered: frozenset[str]) -> frozenset[str] | str:
    """Return the capabilities that ``qmp_capabilities`` enables, or QEMU's error text.

    ``offered`` are the capabilities in the greeting (QEMU monitor/qmp-cmds.c: qmp_caps_accept). The errors for
    arguments are those of QEMU's qobject input visitor.
    """
    arguments = arguments or {}
    enable = arguments.get("enable", [])
    if not isinstance(enable, list):
        return "Invalid parameter type for 'enable', expected: array"
    for i, capability in enumerate(enable):
        if not isinstance(capability, str):
            return f"Invalid parameter type for 'enable[{i}]', expected: string"
        if capability != "oob":
            # an element of a list has no name there, and QEMU prints "null" (qapi/qapi-visit-core.c)
            return f"Parameter 'null' does not accept value '{capability}'"
    for name in arguments:
        if name != "enable":
            return f"Parameter '{name}' is unexpected"
    missing = {c for c in enable if isinstance(c, str)} - offered
    if missing:
        return f"Capability {min(missing)} is not available"
    return frozenset(c for c in enable if isinstance(c, str))
