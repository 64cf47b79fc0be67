"""What a hostile QEMU sends: greetings, replies, events, answers to the guard's own questions; and where it closes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.fakes.qemu import GREETING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: stands for the id of the request that is answered, and for that of the request before it
ID, BEFORE = b"@ID@", b"@BEFORE@"
#: what clients ask a hostile QEMU; it answers this in its own way and everything else well
TRAP = "query-name"

GREETS = json.dumps(GREETING).encode() + b"\r\n"
_MIB = 1 << 20
_DEEP = b"[" * 2000 + b"]" * 2000
_LONG = b"7" * 5000
_REPLY = b'{"return": {"name": "mine"}, "id": @ID@}\r\n'
_ERROR = b'{"class": "GenericError", "desc": "x"}'

#: values where QEMU has others
ODD = {
    "null": b"null",
    "a number": b"5",
    "a string": b'"x"',
    "a list": b"[]",
    "an object": b"{}",
    "a list of numbers": b"[1, null]",
    "a list of odd objects": b'[{}, {"name": 1, "type": [], "capability": {}, "state": "on", "status": 3}]',
    "2,000 lists": _DEEP,
    "5,000 digits": _LONG,
    "1e400": b'{"status": 1e400}',
    "an odd status": b'{"status": [], "running": {}, "ram": 1, "vfio": [], "blocked-reasons": {"a": 1}}',
    "no UTF-8": b'{"status": "\xff\xc3"}',
    "a lone surrogate": b'{"status": "\\ud800", "name": "\\udfff"}',
    "a MiB": b'{"status": "' + b"x" * _MIB + b'"}',
}


#: the guard's own questions, by command
ASKED = (
    *("query-migrate-capabilities", "query-migrate", "query-status", "qom-list", "qom-get", "query-qmp-schema"),
    *("query-yank", "query-migrate-parameters", "query-memdev", "query-target"),
    *("query-named-block-nodes", "query-chardev"),
)
#: answers to some of them that are nearly right
NEARLY = {
    "query-named-block-nodes": {
        "no driver": b'[{"file": "x"}]',
        "a driver that is a list": b'[{"drv": ["nvme"], "file": "x"}]',
        "a file of a MiB": b'[{"drv": "nvme", "file": "' + b"0000:00:00" * (_MIB // 10) + b'"}]',
        "a name that is an object": b'[{"drv": "nvme", "file": "x", "node-name": {"a": 1}}]',
        "a name of controls": b'[{"drv": "nvme", "file": "x", "node-name": "\\n\\u001b[2J"}]',
        "10,000 nodes": b"[" + b", ".join([b'{"drv": "nvme", "file": "x"}'] * 10_000) + b"]",
    },
    "query-chardev": {
        "no filename": b'[{"label": "x"}]',
        "a filename that is a number": b'[{"filename": 5}]',
        "a filename of a MiB": b'[{"filename": "unix:' + b",tight=on" * (_MIB // 9) + b'"}]',
        "a filename of colons": b'[{"filename": "tcp:' + b":" * _MIB + b',server=on"}]',
        "10,000 devices": b"[" + b", ".join([b'{"filename": "unix:/x,server=on"}'] * 10_000) + b"]",
    },
}


@dataclass(frozen=True, slots=True)
class Prank:
    """One connection of a hostile QEMU.

    ``replies``: what is sent in place of the answer to a command. ``cut``: it closes after so many bytes that it has
    sent. ``late``: seconds before the greeting. ``leaves``: it closes right after the answer to TRAP, or to a command
    that stands in ``replies``. ``deaf``: it closes with bytes unread, which resets the connection.
    """

    name: str
    greeting: bytes = GREETS
    replies: Mapping[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    late: float = 0.0
    leaves: bool = False
    deaf: bool = False


def _version(major: bytes, package: bytes = b'""') -> bytes:
    version = b'{"qemu": {"micro": 0, "minor": 1, "major": %b}, "package": %b}' % (major, package)
    return b'{"QMP": {"version": %b, "capabilities": ["oob"]}}\r\n' % version


def _greetings() -> Iterator[Prank]:
    bad = {
        "empty": b"\r\n",
        "no JSON": b"SSH-2.0-OpenSSH_9.2\r\n",
        "an empty object": b"{}\r\n",
        "a list": b"[]\r\n",
        "null for QMP": b'{"QMP": null}\r\n',
        "an event first": b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r\n' + GREETS,
        "no UTF-8": b'{"QMP": {"version": "\xff\xfe"}}\r\n',
        "major is a string": _version(b'"x"'),
        "major 1e400": _version(b"1e400"),
        "major NaN": _version(b"NaN"),
        "major of 5,000 digits": _version(_LONG),
        "major of 2,000 lists": _version(_DEEP),
        "a package of a MiB": _version(b"8", b'"' + b"p" * _MIB + b'"'),
        "a package of controls": _version(b"8", b'"\\n2001-01-01T00:00:00+0000 INFO vm=w \\u001b[2J"'),
        "capabilities that are a number": GREETS.replace(b'["oob"]', b"3"),
        "capabilities that are lists": GREETS.replace(b'["oob"]', b'[[], {}, null, "oob"]'),
        "no capabilities": GREETS.replace(b'["oob"]', b"[]"),
        "twice": GREETS * 2,
        "pretty": json.dumps(GREETING, indent=4).replace("\n", "\r\n").encode() + b"\r\n",
        "without a carriage return": GREETS.replace(b"\r", b""),
        "junk behind": GREETS + b"\0\xff]}\r\n",
    }
    for name, greeting in bad.items():
        yield Prank(f"greeting: {name}", greeting, leaves=True)
    yield Prank("greeting: 70 MiB without a line's end", b"\0" * (70 * _MIB), leaves=True)
    yield Prank("greeting: none, and it closes", b"", cut=0)
    yield Prank("greeting: none, and a reset", b"", cut=0, deaf=True)
    yield Prank("greeting: late", late=1.0, leaves=True)


def _negotiations() -> Iterator[Prank]:
    answers = {
        "an error": b'{"id": @ID@, "error": ' + _ERROR + b"}\r\n",
        "twice": b'{"return": {}, "id": @ID@}\r\n' * 2,
        "another id": b'{"return": {}, "id": 99999}\r\n',
        "without its id": b'{"return": {}}\r\n',
        "junk": b"\xff\xff\r\n",
        "2,000 lists": b'{"return": ' + _DEEP + b', "id": @ID@}\r\n',
    }
    for name, answer in answers.items():
        yield Prank(f"negotiation: {name}", replies={"qmp_capabilities": answer}, leaves=True)


def _replies() -> Iterator[Prank]:
    bad = {
        "twice": _REPLY * 2,
        "a foreign id": b'{"return": {"name": "foreign"}, "id": 987654321}\r\n' + _REPLY,
        "an id of 5,000 digits": b'{"return": {"name": "foreign"}, "id": %b}\r\n' % _LONG + _REPLY,
        "an error with an id of 5,000 digits": b'{"id": %b, "error": %b}\r\n' % (_LONG, _ERROR) + _REPLY,
        "a negative id": b'{"return": {"name": "foreign"}, "id": -1}\r\n' + _REPLY,
        "a fraction for an id": b'{"return": {"name": "foreign"}, "id": 1.5}\r\n' + _REPLY,
        "a string for an id": b'{"return": {"name": "foreign"}, "id": "@ID@"}\r\n' + _REPLY,
        "2,000 lists for an id": b'{"return": {}, "id": %b}\r\n' % _DEEP + _REPLY,
        "no id": b'{"return": {"name": "foreign"}}\r\n' + _REPLY,
        "an error without an id": b'{"error": ' + _ERROR + b"}\r\n" + _REPLY,
        "true for an id": b'{"return": {"name": "foreign"}, "id": true}\r\n' + _REPLY,
        "an id before": b'{"id": @ID@, "return": {"name": "mine"}}\r\n',
        "an id in the middle": b'{"a": 1, "id": @ID@, "return": {"name": "mine"}}\r\n',
        "two ids": b'{"id": @BEFORE@, "return": {"name": "mine"}, "id": @ID@}\r\n',
        "neither return nor error": b'{"id": @ID@}\r\n',
        "both": b'{"id": @ID@, "error": ' + _ERROR + b', "return": {"name": "mine"}}\r\n',
        "the one before again": b'{"return": {"name": "foreign"}, "id": @BEFORE@}\r\n' + _REPLY,
        "a list": b"[]\r\n" + _REPLY,
        "junk": b"\0\x01\xff}{\r\n" + _REPLY,
        "a cut reply and a whole one": b'{"return": {"name": "mi\r\n' + _REPLY,
        "no UTF-8": b'{"return": {"name": "\xff\xc3"}, "id": @ID@}\r\n',
        "an error that is no UTF-8": b'{"id": @ID@, "error": {"class": "GenericError", "desc": "\xff\xc3\xa9"}}\r\n',
        "an error that is a list": b'{"id": @ID@, "error": []}\r\n',
        "5,000 digits": b'{"return": %b, "id": @ID@}\r\n' % _LONG,
        "2,000 lists": b'{"return": %b, "id": @ID@}\r\n' % _DEEP,
        "5 MiB": b'{"return": {"name": "' + b"m" * (5 * _MIB) + b'"}, "id": @ID@}\r\n',
        "70 MiB without an end": b'{"return": {"name": "' + b"m" * (70 * _MIB),
        "pretty": b'{\r\n    "return": {\r\n        "name": "mine"\r\n    },\r\n    "id": @ID@\r\n}\r\n',
        "pretty without an end": b'{\r\n    "return": {\r\n' + _REPLY,
        "a line's end within": b'{"return": {"name":\n"mine"}, "id": @ID@}\r\n',
    }
    for name, reply in bad.items():
        yield Prank(f"reply: {name}", replies={TRAP: reply}, leaves=True)
        if name in ("an error that is no UTF-8", "junk", "5,000 digits", "2,000 lists", "no id", "twice"):
            yield Prank(f"reply to a judged request: {name}", replies={"migrate": reply, TRAP: _REPLY}, leaves=True)
    yield Prank("reply: never, and it closes", replies={TRAP: b""}, leaves=True)
    yield Prank("reply: never, and a reset", replies={TRAP: b""}, leaves=True, deaf=True)


def _events() -> Iterator[Prank]:
    stamp = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": '
    bad = {
        "an object for its name": b'{"event": {"a": 1}, "data": {}}\r\n',
        "null for its name": b'{"event": null}\r\n',
        "a number for its name": b'{"event": 5, "data": 7}\r\n',
        "data that is a list": stamp + b'"MIGRATION", "data": [1]}\r\n',
        "data that is null": stamp + b'"MIGRATION", "data": null}\r\n',
        "an odd status": stamp + b'"MIGRATION", "data": {"status": {"a": []}}}\r\n',
        "an odd path": stamp + b'"DEVICE_DELETED", "data": {"path": 5, "device": []}}\r\n',
        "an odd device": stamp + b'"FAILOVER_NEGOTIATED", "data": {"device-id": {}}}\r\n',
        "SHUTDOWN and goes on": stamp + b'"SHUTDOWN", "data": {"guest": "no", "reason": 7}}\r\n',
        "odd time": b'{"timestamp": {"seconds": 1e400, "microseconds": "x"}, "event": "STOP"}\r\n',
        "no time": b'{"event": "STOP", "timestamp": null}\r\n',
        "a name of a MiB": stamp + b'"' + b"E" * _MIB + b'"}\r\n',
        "a name of controls": stamp + b'"\\n2001-01-01T00:00:00+0000 INFO vm=w x\\u001b"}\r\n',
        "2,000 lists": stamp + b'"STOP", "data": {"x": %b}}\r\n' % _DEEP,
        "5,000 digits": stamp + b'"STOP", "data": {"x": %b}}\r\n' % _LONG,
        "no UTF-8": stamp + b'"STOP", "data": {"x": "\xff"}}\r\n',
        "20,000 at once": (stamp + b'"STOP", "data": {}}\r\n') * 20_000,
        "with the id of a request": stamp + b'"STOP", "id": @ID@}\r\n',
        "8 MiB": stamp + b'"STOP", "data": {"x": "' + b"x" * (8 * _MIB) + b'"}}\r\n',
    }
    for name, event in bad.items():
        yield Prank(f"event: {name}", replies={TRAP: event + _REPLY}, leaves=True)


def _answers() -> Iterator[Prank]:
    for command in ASKED:
        for name, value in (ODD | NEARLY.get(command, {})).items():
            reply = b'{"return": %b, "id": @ID@}\r\n' % value
            yield Prank(f"{command}: {name}", replies={command: reply, TRAP: _REPLY})
        yield Prank(
            f"{command}: an error of no class", replies={command: b'{"id": @ID@, "error": 5}\r\n', TRAP: _REPLY}
        )
    nested = [
        {"name": f"{i}", "meta-type": "object", "members": [], "variants": [{"case": "a", "type": f"{i + 1}"}]}
        for i in range(2000)
    ]
    schema = json.dumps([*nested, {"name": "migrate", "meta-type": "command", "arg-type": "0"}]).encode()
    yield Prank(
        "schema: 2,000 variants in variants",
        replies={"query-qmp-schema": b'{"return": %b, "id": @ID@}\r\n' % schema, TRAP: _REPLY},
    )
    loop = [{"name": "0", "meta-type": "object", "members": [], "variants": [{"case": "a", "type": "0"}]}]
    text = json.dumps([*loop, {"name": "migrate", "meta-type": "command", "arg-type": "0"}]).encode()
    yield Prank(
        "schema: of itself", replies={"query-qmp-schema": b'{"return": %b, "id": @ID@}\r\n' % text, TRAP: _REPLY}
    )


def _cuts() -> Iterator[Prank]:
    """Close at every byte, of the greeting, the negotiation and a reply."""
    whole = len(GREETS) + 160
    for cut in range(whole):
        yield Prank(f"closes after {cut} bytes", cut=cut, replies={TRAP: _REPLY}, deaf=cut % 3 == 0)


#: those that are one of a kind, each of which a test plays
PRANKS = (*_greetings(), *_negotiations(), *_replies(), *_events(), *_answers())
CUTS = tuple(_cuts())
