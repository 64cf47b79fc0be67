"""The rule about requests that are known to end the QEMU that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.problem import Problem

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.policy import Policy


def qemu_crash(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse a command that is known to end the QEMU that is there, VFIO or not.

    `migrate` and `migrate-incoming` with a single channel of type `cpr`, or with `exec` and no `args`;
    `xen-load-devices-state` off Xen; `qom-list-properties` of some types in QEMU 7.2. Queries that load modules
    (`qom-list-types`, HMP's `info qdm` and `device_add help`, the properties of some types) abort a QEMU that was
    upgraded on disk while its VM runs: the rule warns of them, and refuses them in profile strict. Other requests pass.
    """
    row = machine.crash
    if row is None or (row.fixed_in is not None and not machine.is_older_than(row.fixed_in, unknown=True)):
        return None
    text = f"QEMU may end here ({row.effect}): {row.argument}; seen on {row.seen_on}"
    return Problem(text, row.fix, advisory=not row.is_certain and not policy.strict)
