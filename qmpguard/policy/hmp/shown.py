"""A line of HMP as records show it: the command's name, and arguments only where they can hold no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qmpguard.policy.hmp.commands import MigrateSetCapability
from qmpguard.policy.hmp.parser import MAX_LINE, read
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.schema import CAPABILITIES

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: the QMP command that carries a line
COMMAND = "human-monitor-command"
#: what stands in the place of arguments
HIDDEN = "[hidden]"
#: characters of a command's name; QEMU's longest has 30
MAX_NAME = 64


def shown(command: str, arguments: Mapping[str, Value] | None) -> str:
    """Return the line of HMP in a request, without what may be a secret; empty where there is none."""
    line = (arguments or {}).get("command-line")
    if command != COMMAND or not isinstance(line, str):
        return ""
    match read(line):
        case MigrateSetCapability(name, state) if name in CAPABILITIES:
            return f"migrate_set_capability {name} {'on' if state else 'off'}"
    words = parse_line(line[:MAX_LINE])
    return f"{words.name[:MAX_NAME]} {HIDDEN}" if words.rest else words.name[:MAX_NAME]
