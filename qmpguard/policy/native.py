"""What QEMU itself would do with a request that the guard objects to: refuse it, do it, or nobody can tell.

Never told from the version alone: distributions carry fixes back, and a check that exists does not see every device.
``yes`` only where this very VM has shown it; ``no`` where no version of QEMU has a check (7.2 to 11.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.policy.machine import Start, is_vfio
from qmpguard.policy.operations import AddDevice, CallUnlisted, SetProperty, StartMigration

if TYPE_CHECKING:
    from qmpguard.policy.machine import Device, Machine
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.verdict import Finding

#: by rule, QEMU's own words in refusing what the rule refuses (hw/vfio/migration.c: vfio_save_prepare)
WORDS = {
    "vfio-postcopy": "VFIO migration is not supported with postcopy migration",
    "vfio-background-snapshot": "VFIO migration is not supported with background snapshot",
}


class Refuses(Enum):
    """Whether QEMU itself refuses."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Native:
    """What QEMU itself would do, and how we know."""

    refuses: Refuses
    reason: str = ""

    def __str__(self) -> str:
        """Return it as people read it: the word, and the reason if there is one."""
        return f"{self.refuses.value} ({self.reason})" if self.reason else self.refuses.value


#: nothing was found that QEMU could refuse, or nobody could tell what the request is
UNTOLD = Native(Refuses.UNKNOWN)


def seen_in(reply: str) -> frozenset[str]:
    """Return the rules that QEMU itself is seen to know, from its reply to the start of a migration."""
    return frozenset(rule for rule, words in WORDS.items() if words in reply)


def native(operation: Operation, before: Machine, finding: Finding) -> Native:
    """Return what QEMU itself would do with the operation that a rule has found something wrong with."""
    match finding.rule:
        case "vfio-postcopy" | "vfio-background-snapshot":
            return _of_combination(operation, before, finding)
        case "vfio-blocked":
            return Native(Refuses.UNKNOWN, "upstream since 8.2, and only where this device breaks the rule itself")
        case "snapshot-runstate":
            return Native(Refuses.NO, "it aborts")
        case "unknown-command" if isinstance(operation, CallUnlisted) and operation.command not in before.commands:
            return Native(Refuses.YES, "its schema has no such command")
        case "vfio-property" if isinstance(operation, SetProperty) and operation.change.property != "realized":
            return Native(Refuses.UNKNOWN, "it refuses while the device is realized")
        case _:
            return Native(Refuses.NO, "it has no such check")


def _of_combination(operation: Operation, before: Machine, finding: Finding) -> Native:
    if not isinstance(operation, StartMigration):
        return Native(Refuses.NO, _LATER[isinstance(operation, AddDevice)])
    if operation.start is not Start.OUTGOING:
        return Native(Refuses.NO, f"it has no check at the start of the {operation.start.value}")
    known = before.facts.migration
    if known is not None and known.blockers:
        return Native(Refuses.YES, f"blocked: {known.blockers[0]}")
    if finding.rule in before.facts.confirmed:
        return Native(Refuses.YES, "it has done so on this VM")
    if not any(_is_checked(device) for device in operation.after(before).detailed):
        return Native(Refuses.NO, "its check does not see such a device")
    return Native(Refuses.UNKNOWN, "upstream since 8.2")


_LATER = {
    False: "it takes the capability, and looks at the devices when a migration starts, if at all",
    True: "it takes the device, and looks at the capabilities when a migration starts, if at all",
}


def _is_checked(device: Device) -> bool:
    """Say whether QEMU's check, where there is one, sees a device (hw/vfio/pci.c: vfio_pci_realize)."""
    return is_vfio(device.driver) and device.driver != "vfio-user-pci" and not device.failover_pair_id
