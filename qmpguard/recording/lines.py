"""The lines of a recording, as values, and their JSON. docs/recording.md is the format; `reader` reads it.

A line is written when its fact is known: a command stands where its reply came. Lines of several VMs may be mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

from qmpguard.wire.json import Number, Value

#: the version of the format; a reader refuses a later one
FORMAT = 1
#: characters of a name that are printed
MAX_PRINTED = 100
#: the client of the guard's own queries
GUARD = "guard"

Members: TypeAlias = "dict[str, Value]"


def printable(text: str, limit: int = MAX_PRINTED) -> str:
    """Return a text of a recording for people, cut to ``limit``, as JSON where it could end a line or move a cursor."""
    short = text if len(text) <= limit else f"{text[:limit]}..."
    return short if short.isprintable() else json.dumps(short)


@dataclass(frozen=True, slots=True)
class RecordingBegins:
    """The first line: the version of the format, the program that records, and the time."""

    format: int = FORMAT
    program: str = ""
    time: float | None = None


@dataclass(frozen=True, slots=True)
class QemuStarted:
    """QEMU's command line, where it is known."""

    vm: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The guard has a link to a QEMU of this version."""

    vm: str
    qemu: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link to QEMU has ended, with the reason."""

    vm: str
    reason: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyInUse:
    """The policy by which requests are judged from here on, as `policy_to_json` writes it; ``own``: its sockets."""

    vm: str
    policy: Members
    own: tuple[str, ...] = ()
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the guard remembers of this QEMU from before this line, as `memory_to_json` writes it."""

    vm: str
    memory: Members
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict: ``allowed``, ``warned`` or ``refused``, and each violated rule with its mode."""

    verdict: str
    rules: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return it for people: the rules of warnings stand in brackets."""
        rules = ", ".join(rule if mode == "enforce" else f"({rule})" for rule, mode in self.rules)
        return f"{self.verdict} by {rules}" if rules else self.verdict


@dataclass(frozen=True, slots=True)
class Exchange:
    """A command and its reply. ``said`` is the guard's verdict, None where it did not judge or nothing guarded.

    ``descriptor``: one came with it. ``reply`` has ``return`` or ``error``.
    """

    vm: str
    command: str
    arguments: Members | None
    reply: Members
    client: int | str | None = None
    oob: bool = False
    descriptor: bool = False
    said: Said | None = None
    time: float | None = None

    @property
    def returned(self) -> bool:
        """Say whether the reply is a success."""
        return "return" in self.reply


@dataclass(frozen=True, slots=True)
class EventSeen:
    """An event of QEMU."""

    vm: str
    name: str
    data: Members
    time: float | None = None


@dataclass(frozen=True, slots=True)
class LinesLost:
    """A number of lines that could not be written."""

    count: int


Line: TypeAlias = (
    RecordingBegins | QemuStarted | LinkUp | LinkLost | PolicyInUse | Remembered | Exchange | EventSeen | LinesLost
)  # fmt: skip


def write_line(line: Line) -> Members:
    """Return a line as the members of its JSON object; members with their default are left out."""
    match line:
        case RecordingBegins(number, program, time):
            return {"recording": number, **_time(time), **({"program": program} if program else {})}
        case QemuStarted(vm, arguments):
            return {"vm": vm, "start": list(arguments)}
        case LinkUp(vm, qemu, time):
            return {"vm": vm, **_time(time), "link": "up", "qemu": qemu}
        case LinkLost(vm, reason, time):
            return {"vm": vm, **_time(time), "link": "down", "reason": reason}
        case PolicyInUse(vm, policy, own, time):
            return {"vm": vm, **_time(time), "policy": policy, **({"own": list(own)} if own else {})}
        case Remembered(vm, memory, time):
            return {"vm": vm, **_time(time), "remembered": memory}
        case Exchange():
            return _write_exchange(line)
        case EventSeen(vm, name, data, time):
            return {"vm": vm, **_time(time), "event": name, **({"data": data} if data else {})}
        case LinesLost(count):
            return {"kind": "lost", "lines": count}


def _write_exchange(line: Exchange) -> Members:
    members: Members = {"vm": line.vm, **_time(line.time)}
    if line.client is not None:
        members["client"] = line.client
    members["exec-oob" if line.oob else "execute"] = line.command
    if line.arguments is not None:
        members["arguments"] = line.arguments
    if line.descriptor:
        members["descriptor"] = True
    members["reply"] = line.reply
    if line.said is not None:
        members["said"] = {"verdict": line.said.verdict, "rules": dict(line.said.rules)}
    return members


def _time(time: float | None) -> Members:
    return {} if time is None else {"time": Number(f"{time:.6f}")}
