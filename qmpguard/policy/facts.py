"""What QEMU can be asked about a machine, and what it has said.

A fact that was not asked yet is None in `Facts`, and `Machine` raises `Unknown` for it: nothing that is unknown is
ever taken for absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.policy.device import Device
    from qmpguard.policy.migration import Migration
    from qmpguard.wire.json import Value


def numbers(version: str) -> tuple[int, ...] | None:
    """Return a version's numbers, to be compared; None where it is none."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else None


class Fact(Enum):
    """What QEMU can be asked about a machine; the survey has one way to ask for each."""

    CAPABILITIES = "migration capabilities"
    DEVICES = "devices"
    DETAILS = "details of the VFIO devices"
    STANDBYS = "failover standbys"
    RUNSTATE = "run state"
    MIGRATION = "migration status"
    TYPE = "type of the object that is changed"
    COMMANDS = "commands of the schema"
    PARAMETERS = "migration parameters"
    SHARED = "shared memory"
    BLOCKS = "block nodes"
    SOCKETS = "sockets at which QEMU listens"


class Unknown(Exception):  # noqa: N818  -- no error: the survey's way to learn what to ask next
    """A fact was read that QEMU has not been asked for yet."""

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact.value)
        self.fact = fact


#: migration parameters by name, as `query-migrate-parameters` answers them
Parameters: TypeAlias = "Mapping[str, Value]"


@dataclass(frozen=True, slots=True)
class Facts:
    """What QEMU has said. ``None`` means: not asked."""

    capabilities: frozenset[str] | None = None
    devices: tuple[Device, ...] | None = None  # the VFIO devices, by QOM path
    others: tuple[Device, ...] | None = None  # all other devices of the two folders, by QOM path
    details: tuple[Device, ...] | None = None
    standbys: frozenset[str] | None = None
    runstate: str | None = None
    migration: Migration | None = None
    type: str | None = None
    commands: frozenset[str] | None = None  # every command of QEMU's schema
    hidden: tuple[Device, ...] = ()  # failover primaries that QEMU keeps out of QOM; the guard remembers them
    left_on: frozenset[str] = frozenset()  # capabilities that the last migration left on; the guard remembers them
    confirmed: frozenset[str] = frozenset()  # rules that this QEMU was seen to enforce by itself
    parameters: Parameters | None = None
    shared_memory: tuple[str, ...] | None = None  # the ids of memory back ends with share=on
    version: tuple[int, ...] | None = None  # QEMU's, from its greeting; here None means: not known
    blocks: tuple[Device, ...] | None = None  # block nodes that are VFIO devices, by name
    sockets: frozenset[str] | None = None  # where QEMU's character devices listen (`sockets`)
    own: frozenset[str] = frozenset()  # where QEMU is reached and the guard listens, as its configuration says
