"""Migrations: how one starts, how far it has come, and the capabilities that a VFIO device cannot take part in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

POSTCOPY_RAM = "postcopy-ram"
BACKGROUND_SNAPSHOT = "background-snapshot"
#: the capabilities that a VFIO device cannot take part in
DANGEROUS = frozenset({POSTCOPY_RAM, BACKGROUND_SNAPSHOT})

#: migration states after which nothing is under way (QEMU qapi/migration.json: MigrationStatus)
OVER = frozenset({"completed", "failed", "cancelled"})


class Start(Enum):
    """Which migration an operation starts."""

    OUTGOING = "outgoing migration"
    INCOMING = "incoming migration"
    POSTCOPY = "postcopy phase"
    SAVE = "snapshot to disk"
    LOAD = "load of a snapshot"


#: snapshots to disk and back, which are no migrations
SNAPSHOTS = frozenset({Start.SAVE, Start.LOAD})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a migration has come, in bytes: RAM sent, in all, and still to go; the VFIO devices' share if told."""

    sent: int = 0
    total: int = 0
    vfio: int | None = None
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Migration:
    """What ``query-migrate`` says: the status of the last or present migration, and what blocks the next."""

    status: str = "none"
    blockers: tuple[str, ...] = ()
    progress: Progress | None = None
