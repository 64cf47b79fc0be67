"""Messages of QEMU: greeting, replies and events. They are split, and a reply gets the client's id, usually unparsed.

QEMU ends each message with CR LF and escapes both inside strings, so a message is one line. With ``pretty=on`` it spans
several lines, and the last line begins with a brace. The id is the first member of an error and the last of a success.
Since the guard chooses the ids, it finds them without parsing the 200 KB before.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qmpguard.wire.json import Number, Value, encode

#: bytes of the largest reply; QEMU's largest is its schema, a quarter of a megabyte
MAX_REPLY = 64 << 20
#: bytes of the largest event, and of a reply that must be parsed
MAX_ODD = 2 << 20
#: Values of a message that is parsed. A million of them in 9 MiB take more than a second, since Python's garbage
#: collector looks at all of them again and again. QEMU's schema has 19,000, and a block node 33.
MAX_VALUES = 200_000
#: bytes of a reply that is parsed; the replies of judged commands are short, but for the output of HMP
MAX_READ = 1 << 20

#: the largest part of a version, and characters of a package's name
MAX_VERSION, MAX_PACKAGE = 9999, 256

_ID, _END = b', "id": ', b"}\r\n"
# the guard's ids have no more digits, and Python refuses to parse thousands of them
_TAIL = re.compile(rb',\s*"id": (\d{1,19})\s*\}\r?\n\Z')
_HEAD = re.compile(rb'\{\s*"id": (\d{1,19}),\s*')
#: bytes from the end of a reply in which its id begins, with room for QEMU's pretty printing
_TAIL_SIZE = 64


class Splitter:
    """Splits QEMU's bytes into messages. Time and memory are linear in the bytes, however they arrive."""

    def __init__(self) -> None:
        self._line = bytearray()  # an incomplete line
        self._message = bytearray()  # the lines of an incomplete message with pretty=on
        self.held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete, each with its line end.

        Raises `OverflowError` where a message is longer than `MAX_REPLY`.
        """
        end = data.find(b"\n") + 1
        if end == len(data) and data[-3:] == b"}\r\n" and not self.held:
            return [data]  # usually: one complete message
        if not end:
            self._hold(self._line, data)
            return []
        messages: list[bytes] = []
        if self._line:  # it may have 64 MiB: one copy of it is made, not one more for each step below
            self._line += data[:end]
            line, data = bytes(self._line), data[end:]
            self._line.clear()
            self.held = len(self._message)
            self._put(line, messages)
        *lines, rest = data.split(b"\n")
        for each in lines:
            self._put(each + b"\n", messages)
        if rest:
            self._hold(self._line, rest)
        return messages

    def _put(self, line: bytes, messages: list[bytes]) -> None:
        if message := self._take(line):
            messages.append(message)

    def _take(self, line: bytes) -> bytes:
        """Take a line, and return the message that it completes; empty where it completes none."""
        begins = line[:1] == b"{" and line[-_TAIL_SIZE:].rstrip(b"\r\n")[-1:] != b"}"
        if not self._message and not begins:
            return line
        self._hold(self._message, line)
        if line[:1] != b"}":
            return b""
        message = bytes(self._message)
        self._message.clear()
        self.held = 0
        return message

    def _hold(self, where: bytearray, data: bytes) -> None:
        where += data
        self.held += len(data)
        if self.held > MAX_REPLY:
            raise OverflowError(f"a message of QEMU is longer than {MAX_REPLY} bytes")


def find_id(message: bytes) -> tuple[int, int] | None:
    """Return begin and end of a reply's id; None for events, and for ids at an unknown place."""
    # the end of every success of QEMU; a regular expression would take twice as long
    found = message.rfind(_ID, -_TAIL_SIZE)
    start, end = found + len(_ID), len(message) - len(_END)
    if found >= 0 and message[start:end].isdigit() and message.endswith(_END):
        return start, end
    match = _TAIL.search(message, max(0, len(message) - _TAIL_SIZE)) or _HEAD.match(message)
    return match and match.span(1)


def with_id(message: bytes, place: tuple[int, int], identity: bytes | None) -> bytes:
    """Return a reply with another id in place of the one at ``place``; None: without an id."""
    start, end = place
    if identity is not None:
        return message[:start] + identity + message[end:]
    if (head := _HEAD.match(message)) is not None and head.end(1) == end:
        return b"{" + message[head.end() :]
    return message[: message.rindex(b",", 0, start)] + message[end:]


def has_too_many_values(message: bytes) -> bool:
    """Say whether a message may have more than `MAX_VALUES` values; it is not parsed. Each takes more than a byte."""
    return len(message) > MAX_VALUES and sum(map(message.count, (b",", b"{", b"["))) > MAX_VALUES


class Greeting:
    """QEMU's greeting: its bytes for the clients, the version, and the offered capabilities."""

    def __init__(self, line: bytes) -> None:
        """Parse a greeting; raises `ValueError` for any other message."""
        try:
            qmp = json.loads(line)["QMP"]
            version = qmp["version"]["qemu"]
            numbers = [_small(version[part]) for part in ("major", "minor", "micro")]
            package = qmp["version"].get("package") or ""
            #: the capabilities that it offers
            self.offered = frozenset(_text(capability) for capability in qmp["capabilities"])
        except (KeyError, TypeError, RecursionError, AttributeError) as error:
            raise ValueError("this is not a greeting of QEMU") from error
        self.version = ".".join(map(str, numbers))
        #: the name of the package; it is shown and logged, so it is cut and has no control characters
        self.package = "".join(filter(str.isprintable, _text(package)))[:MAX_PACKAGE]
        #: whether its parser skips the rest of a message after a limit, see `Framer`
        self.skips = (numbers[0], numbers[1]) >= (11, 1)
        self.line = line


@dataclass(frozen=True, slots=True)
class QemuEvent:
    """An event of QEMU: its bytes for the clients, its name and its data."""

    line: bytes
    name: str
    data: dict[str, Value]


def _small(value: object) -> int:
    """Return a part of a version. Raises `ValueError` unless it is an integer from 0 to `MAX_VERSION`."""
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise ValueError("this is not a version of QEMU")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("this is not a greeting of QEMU")
    return value


class OddReply:
    """A message without an id at QEMU's usual place: an event, or a reply that must be parsed."""

    def __init__(self, message: bytes) -> None:
        """Parse a message; raises `ValueError` for no object, for an event without a name, and above the limits."""
        if len(message) > MAX_ODD or has_too_many_values(message):
            limits = f"{MAX_ODD} bytes and {MAX_VALUES} values"
            raise ValueError(f"neither a reply nor an event of up to {limits}")
        try:
            members = json.loads(message)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(members, dict):
            raise ValueError("not an object")
        self.event = _event(message, members) if "event" in members else None
        number = members.get("id")
        self.number = number if type(number) is int else None
        self._message = message

    def with_id(self, identity: bytes | None) -> bytes:
        """Return the reply with another id, or with none. Numbers keep their spelling."""
        members = json.loads(self._message, parse_float=Number, parse_constant=Number)
        del members["id"]
        if identity is None:
            return encode(members) + b"\r\n"
        return encode(members)[:-1] + b', "id": ' + identity + b"}\r\n"


def _event(message: bytes, members: dict[str, Value]) -> QemuEvent:
    name, data = members["event"], members.get("data")
    if not isinstance(name, str):
        raise ValueError("an event without a name")
    return QemuEvent(message, name, data if isinstance(data, dict) else {})


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed reply of QEMU: whether it is a success, and the error's text or the output of an HMP line."""

    accepted: bool
    text: str = ""


def read_reply(message: bytes) -> Reply | None:
    """Return the parsed reply; None where it cannot be parsed, or is longer than `MAX_READ`. Never raises.

    ``message`` is as QEMU sent it, with the guard's id: a client's id may be a number or a nesting that the parser
    refuses.
    """
    if len(message) > MAX_READ:
        return None
    try:
        members = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    returned, error = members.get("return"), members.get("error")
    if isinstance(error, dict):
        return Reply(accepted=False, text=str(error.get("desc", "")))
    return Reply("return" in members, returned if isinstance(returned, str) else "")
