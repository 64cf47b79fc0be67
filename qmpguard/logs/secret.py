"""Redaction: a request's arguments without the secrets in them. Where in doubt, a value is hidden.

One list of names decides. Hidden are a member of such a name, an option of such a name within a text, and the value of
a property of such a name. `tests/logs/test_secret.py` checks the list against every command of QEMU's schema.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.logs.hmp_names import HMP_NAMES
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qmpguard.wire.json import Value

#: replaces a secret
HIDDEN = "[hidden]"
#: replaces values beyond a limit
LEFT_OUT = "[left out]"
#: parts of the names of secrets, in lower case and with hyphens
PARTS = ("passw", "passphrase", "secret", "token", "auth", "cookie", "credential", "private-key", "signature")
#: full names: the content of a secret object, keys, and the arguments of a program
NAMES = frozenset({"data", "rawdata", "key", "keys", "psk", "pin", "args", "cpr-exec-command"})
#: commands whose arguments are keystrokes, or a secret as a whole
TYPED = frozenset(
    {"send-key", "input-send-event", "set_password", "expire_password", "change-vnc-password", "ringbuf-write"}
)
#: lines of HMP whose errors may repeat a secret: QEMU says "Parameter 'connected' does not accept value '...'"
TYPED_LINES = TYPED | {"sendkey", "change", "object_add", "ringbuf_write"}
#: queries whose replies are secrets, or what a guest has written
SHOWING = frozenset({"ringbuf-read", "query-sev-attestation-report", "query-sev-launch-measure"})
#: members that name the property whose value another member holds
NAMING = frozenset({"property", "name", "option", "param", "key"})
#: members beside a secret's value that are not hidden
LOCATORS = frozenset({"path", "qom-path", "id", "qom-type"})

#: levels of arguments that are written; no command of QEMU has a third of them
MAX_DEPTH = 50
#: characters of one text that are written
MAX_TEXT = 2048
#: characters and values of one request that are written. They take two milliseconds of the event loop, at worst eight.
#: A request of QEMU's own tools has a tenth of them
MAX_REQUEST = 16384
#: characters and values of one reply that are written: some ten milliseconds. A list of a hundred devices has a tenth
MAX_REPLY = 262144
#: characters of a name; QEMU's longest has 40
MAX_NAME = 200


def _either(names: Iterable[str]) -> str:
    return "(?:" + "|".join(name.replace("-", "[-_]") for name in sorted(names)) + ")"


#: an option of a secret name, or an HTTP header; bounded, so that no text makes it slow
_WORD = re.compile(rf"(?:{_either(PARTS)}[\w.%-]{{0,40}}|(?<![\w-]){_either(NAMES)})\s{{0,8}}[=:]", re.IGNORECASE)
#: URLs whose query may be a credential
_WEB = re.compile(r"(?:https?|ftps?)://[^?]*+\?")


def redacted(command: str, arguments: Mapping[str, Value] | None) -> Value:
    """Return a request's arguments with secrets hidden. Of a line of HMP a command's name and ``info`` stay."""
    if arguments is None:
        return None
    if command in TYPED:
        return {name[:MAX_NAME]: HIDDEN for name in arguments}
    if command == "human-monitor-command":
        return {**{name[:MAX_NAME]: HIDDEN for name in arguments}, "command-line": _line(arguments.get("command-line"))}
    return _Redaction().value(dict(arguments))


def redacted_reply(command: str, arguments: Mapping[str, Value] | None, reply: dict[str, Value]) -> dict[str, Value]:
    """Return a reply with secrets hidden. QEMU's schema has none, and stays whole."""
    returned, about = reply.get("return"), (arguments or {}).get("property")
    if "return" in reply and (command in SHOWING or (isinstance(about, str) and is_secret(about))):
        return {"return": HIDDEN}
    if command in TYPED and isinstance(error := reply.get("error"), dict):
        return {"error": {**{name: one for name, one in error.items() if name == "class"}, "desc": HIDDEN}}
    if command == "human-monitor-command" and isinstance(returned, str):
        return {"return": _output((arguments or {}).get("command-line"), returned)}
    members = {name: value for name, value in reply.items() if name in ("return", "error")}
    if command == "query-qmp-schema" and "return" in reply:
        return members
    found = _Redaction(MAX_REPLY).value(members)
    assert isinstance(found, dict)
    return found


def redacted_event(data: dict[str, Value]) -> dict[str, Value]:
    """Return the data of an event with secrets hidden."""
    found = _Redaction().value(data)
    assert isinstance(found, dict)
    return found


def _output(line: Value, text: str) -> str:
    """Return the output of an HMP line where it is an error or that of ``info``; else its errors and a mark."""
    name = parse_line(line[:MAX_TEXT]).name if isinstance(line, str) else ""
    if name in ("info", "i"):
        return without_secrets(text)
    if name in TYPED_LINES and text.strip():
        return f"Error: {HIDDEN}\r\n" if "Error" in text else HIDDEN
    errors = "".join(one for one in text.splitlines(keepends=True) if one.startswith("Error"))
    return without_secrets(errors) if errors or not text.strip() else HIDDEN


def is_secret(name: str) -> bool:
    """Say whether a member or property of this name is secret."""
    plain = name[:MAX_NAME].lower().replace("_", "-")
    return plain.rpartition(".")[2] in NAMES or any(part in plain for part in PARTS) or len(name) > MAX_NAME


def without_secrets(text: str) -> str:
    """Return a text with secrets hidden, cut to `MAX_TEXT`."""
    short = text[:MAX_TEXT]
    for one in (_program, _embedded, _user, _query, _option):
        short = one(short)
    return short if len(text) <= MAX_TEXT else f"{short}... ({len(text)} characters)"


class _Redaction:
    """The redaction of one message; ``limit`` is in characters and values."""

    def __init__(self, limit: int = MAX_REQUEST) -> None:
        self._left = limit

    def value(self, value: Value, depth: int = 0) -> Value:
        self._left -= 1 + (min(len(value), MAX_TEXT) if isinstance(value, str) else 0)
        if self._left < 0:
            return LEFT_OUT
        if depth > MAX_DEPTH:
            return HIDDEN
        match value:
            case dict():
                return self._members(value, depth)
            case list():
                return self._elements(value, depth)
            case str():
                return without_secrets(value)
            case Number(text) if len(text) > MAX_NAME:
                return LEFT_OUT
            case _:
                return value

    def _members(self, members: Mapping[str, Value], depth: int) -> Value:
        named = any(isinstance(text := members.get(naming), str) and is_secret(text) for naming in NAMING)
        result: dict[str, Value] = {}
        for name, one in members.items():
            if self._left < 0:
                return {**result, LEFT_OUT: LEFT_OUT}
            self._left -= len(name[:MAX_NAME])
            hidden = (is_secret(name) and not _is_wrapper(name, one)) or (named and name not in NAMING | LOCATORS)
            result[name[:MAX_NAME]] = HIDDEN if hidden else self.value(one, depth + 1)
        return result

    def _elements(self, elements: list[Value], depth: int) -> Value:
        result: list[Value] = []
        for one in elements:
            if self._left < 0:
                return [*result, LEFT_OUT]
            result.append(self.value(one, depth + 1))
        return result


def _is_wrapper(name: str, value: Value) -> bool:
    """Say whether a member only wraps others, as in QAPI's simple unions: ``{"type": "unix", "data": {...}}``."""
    return name == "data" and isinstance(value, dict)


def _line(line: Value) -> Value:
    if not isinstance(line, str):
        return HIDDEN
    read = parse_line(line[:MAX_TEXT])
    if read.name in ("info", "i"):
        return without_secrets(line)
    if read.name not in HMP_NAMES:
        return HIDDEN
    return read.name + (f" {HIDDEN}" if read.rest else "")


def _program(text: str) -> str:
    """Hide a shell's command line, also that of a `guestfwd`."""
    head, cmd, _ = text.partition("-cmd:")
    if cmd:
        return f"{head}{cmd}{HIDDEN}"
    return f"exec:{HIDDEN}" if text.lstrip().lower().startswith("exec:") else text


def _embedded(text: str) -> str:
    """Hide a block device that is given as JSON in place of a file name."""
    at = text.find("json:")
    if at >= 0:
        return f"{text[:at]}json:{HIDDEN}"
    return HIDDEN if text.lstrip().startswith("{") else text


def _user(text: str) -> str:
    """Hide user and password in a URL."""
    begin, end = text.find("://"), text.rfind("@")
    return f"{text[: begin + 3]}{HIDDEN}{text[end:]}" if 0 <= begin < end else text


def _query(text: str) -> str:
    """Hide the query of an HTTP or FTP URL."""
    found = _WEB.match(text)
    return f"{found[0]}{HIDDEN}" if found else text


def _option(text: str) -> str:
    """Hide an option of a secret name and the rest of the text, since each syntax ends values in its own way."""
    found = _WORD.search(text) if "=" in text or ":" in text else None
    return f"{text[: found.end()]}{HIDDEN}" if found else text
