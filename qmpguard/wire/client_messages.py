"""Requests, replies and the greeting, as QEMU words them.

One request is checked member by member as QEMU does it, so that what is wrong with it is said in QEMU's
own words (QEMU qapi/qmp-dispatch.c: qmp_dispatch_check_obj). Sources of the texts are named beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.wire.json import Value, echo, echo_in_pieces, encode, encode_for_qemu, fragments_for_qemu, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERIC_ERROR = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"

#: QEMU monitor/qmp.c: monitor_qmp_dispatch()
NOT_NEGOTIATED = "Expecting capabilities negotiation with 'qmp_capabilities'"
#: QEMU qapi/qmp-dispatch.c: qmp_dispatch()
NOT_AN_OBJECT = "QMP input must be a JSON object"

#: QEMU ends each message so (monitor/monitor.c: monitor_puts_locked turns \n into \r\n)
EOL = b"\r\n"


class Request(NamedTuple):
    """A well-formed request; ``id`` is its text as it goes back to the client, None where it had none.

    One is made for every command, and a frozen dataclass takes three times as long to make as a tuple.
    """

    command: str
    arguments: dict[str, Value] | None
    id: bytes | None
    oob: bool

    def encode(self, number: int) -> bytes:
        """Return the request in our own words, with our own id in place of the client's."""
        execute = b'{"exec-oob": ' if self.oob else b'{"execute": '
        if self.arguments is None:
            return b'%b%b, "id": %d}\n' % (execute, encode_for_qemu(self.command), number)
        return b'%b%b, "arguments": %b, "id": %d}\n' % (
            execute,
            encode_for_qemu(self.command),
            encode_for_qemu(self.arguments),
            number,
        )

    def pieces(self, number: int) -> Iterator[bytes]:
        """Yield what `encode` returns in pieces of some milliseconds each, for a request that is long."""
        return pieces(self._fragments(number))

    def _fragments(self, number: int) -> Iterator[str]:
        yield '{"exec-oob": ' if self.oob else '{"execute": '
        yield from fragments_for_qemu(self.command)
        if self.arguments is not None:
            yield ', "arguments": '
            yield from fragments_for_qemu(self.arguments)
        yield f', "id": {number}}}\n'


@dataclass(frozen=True, slots=True)
class BadRequest:
    """An object that is no request: QEMU's words for why, and the id to answer with."""

    desc: str
    id: bytes | None


class Echo:
    """The echo of a long message's id, made a piece at a time; for a message without an id there is nothing to do."""

    def __init__(self, value: Value) -> None:
        self.value = value
        self.text: bytes | None = None
        self._pieces = echo_in_pieces(value["id"]) if isinstance(value, dict) and "id" in value else None
        self._made: list[bytes] = []

    def is_made(self) -> bool:
        """Make the next piece, some milliseconds' work; True when ``text`` is complete, and not to be called again."""
        if self._pieces is not None:
            if (piece := next(self._pieces, None)) is not None:
                self._made.append(piece)
                return False
            self.text = b"".join(self._made)
        return True


def read_request(value: Value, *, oob: bool, identity: bytes | None = None) -> Request | BadRequest:
    """Check a parsed message as QEMU does; ``oob`` says whether the client negotiated out-of-band.

    ``identity`` is the id's echo where it has been made already. Never raises. Which of several faults is reported
    follows QEMU's order of members, which is that of its hash table (QEMU qobject/qdict.c), not the client's.
    """
    if not isinstance(value, dict):
        return BadRequest(NOT_AN_OBJECT, None)
    if identity is None and "id" in value:
        identity = echo(value["id"])
    command = value.get("execute")
    if type(command) is str and _is_plain(value):
        arguments = value.get("arguments")
        return Request(command, arguments if type(arguments) is dict else None, identity, oob=False)
    return _check_members(value, identity, oob=oob)


def _is_plain(value: dict[str, Value]) -> bool:
    """Say whether an object with an ``execute`` has nothing else that needs a closer look."""
    known = 1 + ("id" in value)
    if "arguments" in value:
        return type(value["arguments"]) is dict and len(value) == known + 1
    return len(value) == known


def _check_members(value: dict[str, Value], identity: bytes | None, *, oob: bool) -> Request | BadRequest:
    command: str | None = None
    key: str | None = None
    arguments: dict[str, Value] | None = None
    names = [*reversed(value)]  # within a bucket, what came last is first (qobject/qdict.c: qdict_put_obj)
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
    """Return what ``qmp_capabilities`` enables, or QEMU's words for why it cannot.

    ``offered`` is what the greeting offers (QEMU monitor/qmp-cmds.c: qmp_caps_accept; the argument errors
    are those of QEMU's qobject input visitor).
    """
    arguments = arguments or {}
    enable = arguments.get("enable", [])
    if not isinstance(enable, list):
        return "Invalid parameter type for 'enable', expected: array"
    for i, capability in enumerate(enable):
        if not isinstance(capability, str):
            return f"Invalid parameter type for 'enable[{i}]', expected: string"
        if capability != "oob":
            # a list's element has no name of its own there, and QEMU prints it so (qapi/qapi-visit-core.c)
            return f"Parameter 'null' does not accept value '{capability}'"
    for name in arguments:
        if name != "enable":
            return f"Parameter '{name}' is unexpected"
    missing = {c for c in enable if isinstance(c, str)} - offered
    if missing:
        return f"Capability {min(missing)} is not available"
    return frozenset(c for c in enable if isinstance(c, str))
