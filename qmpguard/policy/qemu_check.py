"""QEMU's own check of a request that the guard refuses or warns of: QEMU would refuse it, accept it, or it is unknown.

The version alone does not decide: distributions backport fixes, and an existing check does not cover every device. The
answer is ``yes`` where this VM has shown it, or where every version refuses; for a check that only newer versions have,
``yes`` comes with that reason. It is ``no`` where no version of QEMU has a check (7.2 to 11.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.policy.blocks import DRIVERS
from qmpguard.policy.device import is_vfio
from qmpguard.policy.facts import read_together
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, OVER, POSTCOPY_RAM, Start
from qmpguard.policy.operations import AddDevice, CallUnlisted, OpenBlockNode, SetProperty, StartMigration

if TYPE_CHECKING:
    from qmpguard.policy.device import Device
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.problem import Finding

#: by rule, the error with which QEMU itself refuses the same (hw/vfio/migration.c: vfio_save_prepare)
QEMU_ERRORS = {
    "vfio-postcopy": "VFIO migration is not supported with postcopy migration",
    "vfio-background-snapshot": "VFIO migration is not supported with background snapshot",
}


#: QEMU's blocker for several VFIO devices, with its text since 8.2
P2P = "Multiple VFIO devices migration is supported only if all of them support P2P migration"


class Refuses(Enum):
    """Whether QEMU itself refuses."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class QemuCheck:
    """Whether QEMU itself refuses, and the reason of this answer."""

    refuses: Refuses
    reason: str = ""

    def __str__(self) -> str:
        """Return the answer, with the reason in parentheses if there is one."""
        return f"{self.refuses.value} ({self.reason})" if self.reason else self.refuses.value


#: there is no finding, or the request could not be read
UNKNOWN_CHECK = QemuCheck(Refuses.UNKNOWN)


def seen_in(reply: str) -> frozenset[str]:
    """Return the rules that QEMU itself enforces, by its error in the reply to the start of a migration."""
    return frozenset(rule for rule, words in QEMU_ERRORS.items() if words in reply)


def qemu_check(operation: Operation, before: Machine, finding: Finding) -> QemuCheck:
    """Return QEMU's own check of an operation with a finding.

    Raises `Unknown` where that depends on a fact that was not queried yet.
    """
    match finding.rule:
        case rule if rule in _COMBINATIONS:
            return _of_combination(operation, before, finding)
        case "snapshot-runstate":
            return check_of_start(before) or QemuCheck(Refuses.NO, "it aborts")
        case "vfio-blocked":
            return _of_blocked(before)
        case rule if rule in _QEMU_ENDS:
            return QemuCheck(Refuses.NO, _QEMU_ENDS[rule])
        case "unknown-command" if isinstance(operation, CallUnlisted) and operation.command not in before.commands:
            return QemuCheck(Refuses.YES, "its schema has no such command")
        case "vfio-property" if isinstance(operation, SetProperty) and operation.change.property != "realized":
            return QemuCheck(Refuses.UNKNOWN, "it refuses while the device is realized")
        case _:
            return QemuCheck(Refuses.NO, "it has no such check")


def check_of_start(before: Machine) -> QemuCheck | None:
    """Return QEMU's own refusal of any migration out of a machine; None where it would not refuse.

    The checks are in QEMU's order (migration/migration.c: migrate_prepare). Of several blockers QEMU names the last one
    of the list in `query-migrate`, which is in reverse order.
    """
    if is_migrating_out(before):
        return QemuCheck(Refuses.YES, "a migration is under way")
    if (reason := _NOT_FROM.get(before.runstate)) is not None:
        return QemuCheck(Refuses.YES, reason)
    blockers = before.migration.blockers
    return QemuCheck(Refuses.YES, f"blocked: {blockers[-1]}") if blockers else None


#: the rules about requests that end QEMU
_QEMU_ENDS = {"snapshot-multifd": "it dies", "qemu-crash": "it dies"}
#: rules about a device with a capability: QEMU has other reasons of its own that come first
_COMBINATIONS = frozenset({*QEMU_ERRORS, "vfio-colo", "vdpa-postcopy", "snapshot-foreign-dma"})
#: run states from which no migration out begins
_NOT_FROM = {"inmigrate": "it waits for a migration to come", "postmigrate": "it has migrated away"}
#: the reason for a check that is in QEMU's source, but that this VM has not shown
_UNPROVEN = "upstream since 8.2; not proven on this VM"


def is_migrating_out(machine: Machine) -> bool:
    """Say whether a migration out is under way: QEMU then refuses many commands (migration_is_running).

    A destination reports its migration in by the same status. It is in run state `inmigrate`, or runs already while its
    pages are still arriving.
    """
    status = machine.migration.status
    if status in OVER or status == "none":
        return False
    arrives = status.startswith("postcopy") and machine.runstate == "running"
    return machine.runstate != "inmigrate" and not arrives


def read_for_start(after: Machine, first: Device) -> None:
    """Read the facts that decide QEMU's own check of the start of a migration with a VFIO device."""
    if after.starting is Start.POSTCOPY:
        _ = after.migration
        return
    pair = partial(after.properties_of, (first,), "failover_pair_id")
    read_together(pair, lambda: after.migration, lambda: after.runstate)


def _of_blocked(before: Machine) -> QemuCheck:
    if any(P2P in blocker for blocker in before.migration.blockers):
        return QemuCheck(Refuses.YES, "since 8.2, also for a device that could be migrated with others")
    return QemuCheck(Refuses.UNKNOWN, "8.1 takes such a device")


def _of_combination(operation: Operation, before: Machine, finding: Finding) -> QemuCheck:
    match operation:
        case StartMigration(Start.OUTGOING):
            return check_of_start(before) or _of_check(operation, before, finding.rule)
        case StartMigration(Start.INCOMING) if before.runstate != "inmigrate":
            return QemuCheck(Refuses.YES, "it was not started with -incoming, or has arrived")
        case StartMigration(Start.POSTCOPY) if before.migration.status == "none":
            return QemuCheck(Refuses.YES, "no migration has been started")
        case StartMigration(start):
            return QemuCheck(Refuses.NO, f"it has no check at the start of the {start.value}")
        case _ if is_migrating_out(before):
            return QemuCheck(Refuses.YES, "a migration is under way")
        case AddDevice(device) | OpenBlockNode(device):
            return _of_device(before, device)
        case _:
            return _of_capability(operation.after(before), finding.problem.capability)


def _of_check(operation: Operation, before: Machine, rule: str) -> QemuCheck:
    if rule in before.facts.confirmed:
        return QemuCheck(Refuses.YES, "it has done so on this VM")
    if rule not in QEMU_ERRORS:
        return QemuCheck(Refuses.NO, "it has no such check")
    after = operation.after(before)
    if not any(_is_checked(after, device) for device in after.devices):
        return QemuCheck(Refuses.NO, "its check does not see such a device")
    return QemuCheck(Refuses.YES, _UNPROVEN)


def _of_device(before: Machine, device: Device) -> QemuCheck:
    later = "it takes the device, and looks at the capabilities when a migration starts, if at all"
    if not _is_checked(before, device):
        return QemuCheck(Refuses.NO, later)
    return QemuCheck(Refuses.UNKNOWN, f"{later}; with -only-migratable it refuses one that cannot migrate")


#: by capability, the capabilities that every version of QEMU refuses together with it (migrate_caps_check)
EXCLUDES = {
    BACKGROUND_SNAPSHOT: frozenset(
        {
            *(POSTCOPY_RAM, "dirty-bitmaps", "postcopy-blocktime", "late-block-activate", "return-path", "multifd"),
            *("pause-before-switchover", "auto-converge", "release-ram", "rdma-pin-all", "compress", "xbzrle"),
            *("x-colo", "validate-uuid", "zero-copy-send"),
        }
    ),
    POSTCOPY_RAM: frozenset({BACKGROUND_SNAPSHOT, "x-ignore-shared"}),
}


def _of_capability(after: Machine, capability: str | None) -> QemuCheck:
    for name in sorted(EXCLUDES.get(capability or "", ())):
        if after.has(name):
            return QemuCheck(Refuses.YES, f"it does not take {capability} together with {name}")
    return QemuCheck(Refuses.NO, "it takes the capability, and looks at the devices when a migration starts, if at all")


def _is_checked(machine: Machine, device: Device) -> bool:
    """Say whether QEMU's check, where there is one, covers a device (hw/vfio/pci.c: vfio_pci_realize)."""
    if device.driver in DRIVERS:  # a block node
        return False
    if not is_vfio(device.driver) or device.driver == "vfio-user-pci":
        return False
    return not any(machine.properties_of((device,), "failover_pair_id"))
