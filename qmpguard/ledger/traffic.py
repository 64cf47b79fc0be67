"""The traffic file: what clients ask for, one JSON object a line, without secrets. For looking into a problem."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qmpguard.wire.json import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.ledger.linefile import Sink
    from qmpguard.record import Peer
    from qmpguard.wire.json import Value
    from qmpguard.wire.messages import Request

#: what stands in the place of a secret
HIDDEN = "[hidden]"
#: parts of the names of members that hold secrets
SECRETS = ("password", "passwd", "secret", "token", "auth")
#: members that hold the secret of a secret object
DATA = frozenset({"data", "rawdata", "key"})
#: levels of arguments that are looked into; no command of QEMU's has a third of it
MAX_DEPTH = 50
#: commands whose arguments are what somebody types, or a secret as a whole
TYPED = frozenset(
    {"send-key", "input-send-event", "set_password", "expire_password", "change-vnc-password", "ringbuf-write"}
)


class Traffic:
    """Writes requests down, but for commands that are left out."""

    def __init__(self, sink: Sink, exclude: frozenset[str]) -> None:
        self._sink = sink
        self._exclude = exclude

    def passed(self, vm: str, peer: Peer, request: Request) -> None:
        """Write a request down."""
        if request.command in self._exclude:
            return
        line: dict[str, Value] = {
            "time": f"{time.time():.6f}",
            "vm": vm,
            "client": str(peer),
            "command": request.command,
            "oob": request.oob,
            "arguments": redacted(request.command, request.arguments),
        }
        self._sink.put(encode(line))


def redacted(command: str, arguments: Mapping[str, Value] | None) -> Value:
    """Return a request's arguments with what may be a secret hidden; of HMP only the command's name and ``info``."""
    if arguments is None:
        return None
    if command in TYPED:
        return dict.fromkeys(arguments, HIDDEN)
    if command == "human-monitor-command":
        return {**dict.fromkeys(arguments, HIDDEN), "command-line": _line(arguments.get("command-line"))}
    return _hidden(dict(arguments))


def _line(line: Value) -> Value:
    if not isinstance(line, str):
        return HIDDEN
    first, space, _ = line.strip().partition(" ")
    return line if first in ("info", "i") else first + (f" {HIDDEN}" if space else "")


def _hidden(value: Value, depth: int = 0) -> Value:
    if depth > MAX_DEPTH:
        return HIDDEN
    match value:
        case dict():
            return {name: HIDDEN if _is_secret(name) else _hidden(one, depth + 1) for name, one in value.items()}
        case list():
            return [_hidden(one, depth + 1) for one in value]
        case _:
            return value


def _is_secret(name: str) -> bool:
    lower = name.lower()
    return lower in DATA or any(part in lower for part in SECRETS)
