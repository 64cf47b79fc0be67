"""The facts about a machine: those that can be queried from QEMU, and their values.

A fact that was not queried yet is None in `Facts`, and `Machine` raises `Unknown` for it: an unknown fact never counts
as absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpguard.policy.device import Device
    from qmpguard.policy.migration import Migration
    from qmpguard.wire.json import Value


#: digits of a part of a version
MAX_DIGITS = 9


def numbers(version: str) -> tuple[int, ...] | None:
    """Return a version's numbers, for comparisons; None for an invalid version."""
    parts = version.split(".")
    valid = all(part.isascii() and part.isdigit() and len(part) <= MAX_DIGITS for part in parts)
    return tuple(map(int, parts)) if valid else None


class Fact(Enum):
    """The facts that can be queried from QEMU; `survey.ASK` has the queries of each."""

    __hash__ = object.__hash__  # that of `Enum` is a function in Python

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
    NICS = "network devices"


class Unknown(Exception):  # noqa: N818  -- not an error: it tells the survey which fact to query next
    """Facts were read that were not queried yet.

    ``properties`` are properties of VFIO devices, by the path and the name. ``decided``: the rule that needs the facts
    refuses whatever they are; they are for its text.
    """

    def __init__(self, *facts: Fact, properties: tuple[Property, ...] = (), decided: bool = False) -> None:
        super().__init__((facts or (Fact.DETAILS,))[0].value)
        self.facts = facts
        self.properties = properties
        self.decided = decided

    @classmethod
    def of(cls, several: Iterable[Unknown], *, decided: bool = False) -> Unknown:
        """Return one for the facts of several, each once."""
        facts = dict.fromkeys(fact for each in several for fact in each.facts)
        properties = dict.fromkeys(wanted for each in several for wanted in each.properties)
        return cls(*facts, properties=tuple(properties), decided=decided)


def read_together(*reads: Callable[[], object], decided: bool = False) -> None:
    """Read several facts. Raises one `Unknown` for all that were not queried yet, so that one burst queries them."""
    lacking: list[Unknown] = []
    for read in reads:
        try:
            read()
        except Unknown as unknown:
            lacking.append(unknown)
    if lacking:
        raise Unknown.of(lacking, decided=decided)


#: a property of a VFIO device: the device's path in QOM, and the property's name
Property: TypeAlias = tuple[str, str]
#: migration parameters by name, as `query-migrate-parameters` answers them
Parameters: TypeAlias = "Mapping[str, Value]"


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that were queried from QEMU, or remembered. ``None``: not queried."""

    capabilities: frozenset[str] | None = None
    devices: tuple[Device, ...] | None = None  # the VFIO devices, by QOM path
    others: tuple[Device, ...] | None = None  # all other devices in the same QOM containers, by QOM path
    details: tuple[Device, ...] | None = None  # all VFIO devices with all details
    standbys: frozenset[str] | None = None
    runstate: str | None = None
    migration: Migration | None = None
    type: str | None = None
    commands: frozenset[str] | None = None  # every command of QEMU's schema
    hidden: tuple[Device, ...] = ()  # failover primaries that are not in QOM yet; the guard remembers them
    negotiated: frozenset[str] = frozenset()  # standbys whose guest has negotiated failover; the guard remembers them
    left_on: frozenset[str] = frozenset()  # stale capabilities of the last migration; the guard remembers them
    confirmed: frozenset[str] = frozenset()  # rules that this QEMU has enforced itself
    parameters: Parameters | None = None
    shared_memory: tuple[str, ...] | None = None  # the ids of memory back ends with share=on
    version: tuple[int, ...] | None = None  # QEMU's, from its greeting; None: invalid
    blocks: tuple[Device, ...] | None = None  # block nodes that are VFIO devices, by name
    sockets: frozenset[str] | None = None  # names of the sockets at which QEMU's character devices listen
    netdevs: tuple[Device, ...] = ()  # network back ends that access guest RAM; the guard remembers them
    nics: tuple[tuple[str, str], ...] | None = None  # the virtio-net devices: the id of the netdev, and the device
    own: frozenset[str] = frozenset()  # names of QEMU's monitor socket and the guard's socket, from the configuration
    properties: Mapping[Property, str | None] = field(default_factory=dict, hash=False)  # queried one by one
