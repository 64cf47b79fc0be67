"""What a new process must know to go on with a link to QEMU on which nothing is under way.

QEMU sees one connection that goes on: no client of another kind can slip in between, and a QEMU that dialled in, and
could not be reached again, stays guarded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from qmpguard.policy.device import Device
from qmpguard.proxy.listening.peer import ProcessIdentity
from qmpguard.wire.qemu_messages import Greeting

if TYPE_CHECKING:
    import socket

#: of the form below; another one is not read, and the link is made anew
VERSION = 1


@dataclass(frozen=True, slots=True)
class Handover:
    """A link at rest: whose it is, what QEMU said first, the last number used, what QEMU does not show, its process.

    ``hidden`` are failover primaries, ``negotiated`` standbys whose guest has negotiated failover, ``netdevs`` network
    back ends that access guest RAM.
    """

    vm: str
    qemu: str
    greeting: Greeting
    number: int
    hidden: tuple[Device, ...] = ()
    netdevs: tuple[Device, ...] = ()
    process: ProcessIdentity | None = None
    negotiated: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        """Return it as bytes."""
        state = {
            "version": VERSION,
            "vm": self.vm,
            "qemu": self.qemu,
            "greeting": self.greeting.line.decode("latin-1"),
            "number": self.number,
            "hidden": [asdict(device) for device in self.hidden],
            "netdevs": [asdict(device) for device in self.netdevs],
            "process": self.process,
            "negotiated": sorted(self.negotiated),
        }
        return json.dumps(state).encode()


@dataclass(frozen=True, slots=True)
class Inheritance:
    """A link that another process has left: its socket, which the owner of this closes, and what goes with it."""

    sock: socket.socket
    handover: Handover


def decode(data: bytes) -> Handover:
    """Return what `Handover.encode` made; raises `ValueError` for anything else, also of another version."""
    try:
        state = json.loads(data)
        if state["version"] != VERSION:
            raise ValueError(f"version {state['version']} instead of {VERSION}")
        return Handover(
            str(state["vm"]),
            str(state["qemu"]),
            Greeting(state["greeting"].encode("latin-1")),
            int(state["number"]),
            tuple(_device(values) for values in state["hidden"]),
            tuple(_device(values) for values in state.get("netdevs", ())),  # a guard of before 2026-11-26 has none
            _process(state.get("process")),
            frozenset(map(str, state.get("negotiated", ()))),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is no handover") from error


def _device(values: dict[str, object]) -> Device:
    if values.keys() != {field.name for field in fields(Device)}:
        raise ValueError("it has other devices")
    return Device(**values)  # type: ignore[arg-type]


def _process(values: tuple[int, int, int, int, int | None] | None) -> ProcessIdentity | None:
    if values is None:
        return None
    pid, uid, gid, parent, started = values
    return ProcessIdentity(int(pid), int(uid), int(gid), int(parent), None if started is None else int(started))
