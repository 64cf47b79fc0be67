"""What QEMU sends: the greeting, replies, events; cut into messages and given to the client's id, mostly unparsed.

QEMU ends each message with CR LF and escapes both inside strings, so a message on one line is one line. With
``pretty=on`` it spans lines and ends with a brace at their beginning. An id stands first in an error and last in a
success: with ids of our own, it is found without parsing the 200 KB before it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qmpguard.wire.json import Value, encode

#: the largest reply; the largest that QEMU has is its schema, a quarter of a megabyte
MAX_REPLY = 64 << 20

#: the largest part of a version, and characters of a package's name
MAX_VERSION, MAX_PACKAGE = 9999, 256

_ID, _END = b', "id": ', b"}\r\n"
# no number of ours has more digits, and Python refuses to read thousands of them
_TAIL = re.compile(rb',\s*"id": (\d{1,19})\s*\}\r?\n\Z')
_HEAD = re.compile(rb'\{\s*"id": (\d{1,19}),\s*')
#: how far from the end of a reply its id can begin, with room for QEMU's pretty printing
_TAIL_SIZE = 64


class Splitter:
    """Cuts QEMU's bytes into messages. Linear in their number, however they arrive."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of a line that has no end yet
        self._lines: list[bytes] = []  # of a pretty message that has no end yet
        self.held = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete, each with its line end.

        Raises `OverflowError` where a message is longer than any that QEMU sends.
        """
        end = data.find(b"\n") + 1
        if end == len(data) and data[-3:] == b"}\r\n" and not self._pieces and not self._lines:
            return [data]  # mostly: one message, whole
        if not end:
            self._hold(self._pieces, data)
            return []
        if self._pieces:
            data = b"".join((*self._pieces, data))
            self._pieces.clear()
            self.held = sum(map(len, self._lines))
        messages = []
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                self._hold(self._pieces, line)
            elif self._lines:
                self._hold(self._lines, line)
                if line[:1] == b"}":
                    messages.append(b"".join(self._lines))
                    self._lines.clear()
                    self.held = 0
            elif line[:1] == b"{" and line.rstrip(b"\r\n")[-1:] != b"}":
                self._hold(self._lines, line)
            else:
                messages.append(line)
        return messages

    def _hold(self, where: list[bytes], data: bytes) -> None:
        where.append(data)
        self.held += len(data)
        if self.held > MAX_REPLY:
            raise OverflowError(f"a message of QEMU is longer than {MAX_REPLY} bytes")


def find_id(message: bytes) -> tuple[int, int] | None:
    """Return where a reply's id begins and ends; None for events, and for ids where no known QEMU puts them."""
    # as all of QEMU's successes end; an expression would take twice as long
    found = message.rfind(_ID, -_TAIL_SIZE)
    start, end = found + len(_ID), len(message) - len(_END)
    if found >= 0 and message[start:end].isdigit() and message.endswith(_END):
        return start, end
    match = _TAIL.search(message, max(0, len(message) - _TAIL_SIZE)) or _HEAD.match(message)
    return match and match.span(1)


def with_id(message: bytes, place: tuple[int, int], identity: bytes | None) -> bytes:
    """Return a reply with another id than the one at that place, or with none."""
    start, end = place
    if identity is not None:
        return message[:start] + identity + message[end:]
    if (head := _HEAD.match(message)) is not None and head.end(1) == end:
        return b"{" + message[head.end() :]
    return message[: message.rindex(b",", 0, start)] + message[end:]


class Greeting:
    """QEMU's greeting: its bytes for the clients, its version, and what it offers."""

    def __init__(self, line: bytes) -> None:
        """Read a greeting; raises `ValueError` for anything else, whatever it is."""
        try:
            qmp = json.loads(line)["QMP"]
            version = qmp["version"]["qemu"]
            numbers = [_small(version[part]) for part in ("major", "minor", "micro")]
            package = qmp["version"].get("package") or ""
            #: the capabilities that it offers
            self.offered = frozenset(_text(capability) for capability in qmp["capabilities"])
        except (KeyError, TypeError, RecursionError, AttributeError) as error:
            raise ValueError("this is no greeting of QEMU") from error
        self.version = ".".join(map(str, numbers))
        #: what its packager calls it; it is shown and logged, so it has a limit and no control characters
        self.package = "".join(filter(str.isprintable, _text(package)))[:MAX_PACKAGE]
        #: what follows a limit of its parser is skipped until the brackets balance, see `Framer`
        self.skips = (numbers[0], numbers[1]) >= (11, 1)
        self.line = line


@dataclass(frozen=True, slots=True)
class QemuEvent:
    """An event of QEMU: its bytes for the clients, its name and its data."""

    line: bytes
    name: str
    data: dict[str, Value]


def _small(value: object) -> int:
    """Return a part of a version. Raises `ValueError` for what cannot be one: no text, no fraction, no huge number."""
    if type(value) is not int or not 0 <= value <= MAX_VERSION:
        raise ValueError("this is no version of QEMU")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("this is no greeting of QEMU")
    return value


class OddReply:
    """A message that has no id where QEMU puts it: an event, or a reply that must be parsed."""

    def __init__(self, message: bytes) -> None:
        """Parse it; raises `ValueError` for what is no JSON object, and for an event without a name."""
        try:
            members = json.loads(message)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(members, dict):
            raise ValueError("no object")
        self.event = _event(message, members) if "event" in members else None
        number = members.pop("id", None)
        self.number = number if type(number) is int else None
        self._members: dict[str, Value] = members

    def with_id(self, identity: bytes | None) -> bytes:
        """Return the reply with another id, or with none."""
        if identity is None:
            return encode(self._members) + b"\r\n"
        return encode(self._members)[:-1] + b', "id": ' + identity + b"}\r\n"


def _event(message: bytes, members: dict[str, Value]) -> QemuEvent:
    name, data = members["event"], members.get("data")
    if not isinstance(name, str):
        raise ValueError("an event without a name")
    return QemuEvent(message, name, data if isinstance(data, dict) else {})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply of QEMU says: whether it is a success, and the text that a line of HMP returned."""

    accepted: bool
    text: str = ""


def read_reply(message: bytes) -> Reply | None:
    """Return what a reply of QEMU says; None for what cannot be read. Never raises.

    ``message`` is as QEMU sent it, with the guard's own id: an id of a client may be a number or a nesting that
    no parser takes.
    """
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
