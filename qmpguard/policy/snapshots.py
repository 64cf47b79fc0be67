"""Rules about snapshots to disk, and about memory that QEMU omits from a snapshot or a migration without an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import SNAPSHOTS, Start
from qmpguard.policy.problem import Problem
from qmpguard.policy.qemu_check import QemuCheck, Refuses

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy

MULTIFD = "multifd"
IGNORE_SHARED = "x-ignore-shared"
#: the migration mode outside CPR (QEMU qapi/migration.json: MigMode)
NORMAL = "normal"
#: the modes in which QEMU transfers no RAM (migration/ram.c: migrate_ram_is_ignored)
KEEPS_RAM = frozenset({"cpr-transfer", "cpr-exec"})
#: the first version with migration modes, and the first that itself refuses a snapshot with multifd
HAS_MODES, REFUSES_MULTIFD = (8, 2), (10, 2)


def snapshot_cpr(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse `snapshot-save` and `snapshot-load` while the migration mode is one of CPR's.

    In `cpr-transfer` and `cpr-exec` QEMU 10.1 to 11.1 leave all RAM out of the snapshot, and the job concludes without
    an error. In `cpr-reboot` QEMU ignores blockers of snapshots. The mode stays set after a CPR that was cancelled.
    HMP's `savevm` and `loadvm` are refused too.
    """
    if machine.starting not in SNAPSHOTS or machine.is_older_than(HAS_MODES, unknown=False):
        return None
    mode = machine.parameter("mode")
    if mode in (None, NORMAL):
        return None
    what = "QEMU would leave out the memory" if mode in KEEPS_RAM else "QEMU would ignore what blocks a snapshot"
    fix = "set mode to normal with migrate-set-parameters first"
    return Problem(f"Snapshots are not possible in migration mode '{mode}': {what}", fix, parameter=f"mode is {mode}")


def snapshot_multifd(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse `snapshot-save` and `snapshot-load` with capability `multifd` on where QEMU would die of it.

    QEMU up to 10.1 dies (SIGSEGV). From 10.2 on QEMU itself refuses, with this error. An unknown version counts as one
    that dies. HMP's `savevm` and `loadvm` are refused too.
    """
    if machine.starting not in SNAPSHOTS or not machine.is_older_than(REFUSES_MULTIFD, unknown=True):
        return None
    if not machine.has(MULTIFD):
        return None
    fix = "turn it off with migrate-set-capabilities first"
    return Problem("Snapshots are not compatible with multifd: QEMU would die", fix, capability=MULTIFD)


def check_of_snapshot(machine: Machine) -> QemuCheck | None:
    """Return QEMU's own refusal of a snapshot to disk; None where it would not refuse.

    It is that of QEMU 10.2 and later (migration/options.c: migrate_can_snapshot); an older one dies.
    """
    if machine.is_older_than(REFUSES_MULTIFD, unknown=True) or not machine.has(MULTIFD):
        return None
    return QemuCheck(Refuses.YES, "Snapshots are not compatible with multifd")


def ignore_shared(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse `snapshot-save` with `x-ignore-shared` on where memory is shared: its RAM could not be restored.

    The rule warns of a migration to another host by TCP or RDMA: the RAM stays behind. Migrations to a file, a program,
    a descriptor or a unix socket pass, since templates use them. Memory counts as shared where `query-memdev` reports
    `share` on. QEMU 8.1 and later omit it only where it is a named file, which `query-memdev` does not report.
    """
    saves, leaves = machine.starting is Start.SAVE, machine.starting is Start.OUTGOING and machine.to_another_host
    if not (saves or leaves) or not machine.has(IGNORE_SHARED) or not machine.shared_memory:
        return None
    text = "The snapshot would not hold the shared memory" if saves else "The shared memory would not be migrated"
    fix = "turn the capability off with migrate-set-capabilities first"
    return Problem(text, fix, machine.shared_memory, IGNORE_SHARED, advisory=leaves)
