"""Migrations: the kinds of starts, the status and progress, and the capabilities that are refused with VFIO devices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

POSTCOPY_RAM = "postcopy-ram"
BACKGROUND_SNAPSHOT = "background-snapshot"
#: the capabilities that are refused together with a VFIO device
DANGEROUS = frozenset({POSTCOPY_RAM, BACKGROUND_SNAPSHOT})

#: the statuses of a finished migration (QEMU qapi/migration.json: MigrationStatus)
OVER = frozenset({"completed", "failed", "cancelled"})


class Start(Enum):
    """The kind of migration or snapshot that an operation starts."""

    OUTGOING = "outgoing migration"
    INCOMING = "incoming migration"
    POSTCOPY = "postcopy phase"
    SAVE = "snapshot to disk"
    LOAD = "load of a snapshot"


#: snapshots to disk and back, which are not migrations
SNAPSHOTS = frozenset({Start.SAVE, Start.LOAD})


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a migration in bytes: RAM sent, in total, and remaining; the VFIO devices' bytes if reported."""

    sent: int = 0
    total: int = 0
    vfio: int | None = None
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Migration:
    """The answer to ``query-migrate``: the status of the last or present migration, and the blockers of the next."""

    status: str = "none"  # as QEMU names it
    blockers: tuple[str, ...] = ()  # what keeps the VM from migrating, in QEMU's words
    progress: Progress | None = None
