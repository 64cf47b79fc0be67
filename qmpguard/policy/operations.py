"""Operations: what an intercepted request would do, as values. Each says what the machine is after it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from qmpguard.policy.device import Device
from qmpguard.policy.machine import Change, Machine
from qmpguard.policy.migration import Start

if TYPE_CHECKING:
    from qmpguard.policy.crashes import Crash
    from qmpguard.wire.json import Value


class Operation(Protocol):
    """What a request would do to a machine."""

    def after(self, machine: Machine) -> Machine:
        """Return the machine as it would be."""
        ...

    def meets_a_leftover(self, before: Machine, capability: str) -> bool:
        """Say whether a capability that is on is of no consequence for it; then it is only warned of."""
        ...


class _Lasting:
    """An operation after which a capability that is on can do harm."""

    __slots__ = ()

    def meets_a_leftover(self, before: Machine, capability: str) -> bool:
        """Never: what it does lasts until a migration uses it."""
        return False


@dataclass(frozen=True, slots=True)
class SetCapabilities(_Lasting):
    """Capabilities switched on and off, in the request's order, and migration parameters that are set.

    ``program`` is what the same request makes QEMU run.
    """

    states: tuple[tuple[str, bool], ...]
    program: str | None = None
    parameters: tuple[tuple[str, Value], ...] = ()

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the capabilities folded in order."""
        return replace(
            machine.with_capabilities(self.states).with_parameters(self.parameters), program=self.program, setting=True
        )


@dataclass(frozen=True, slots=True)
class StartMigration(_Lasting):
    """The start of a migration in either direction, of its postcopy phase, or of a snapshot to disk or back.

    ``program`` is what it runs; ``to_another_host``: its target is surely not on this host; ``crash``: it is known to
    end some QEMUs.
    """

    start: Start
    program: str | None = None
    to_another_host: bool = False
    crash: Crash | None = None
    addresses: tuple[str, ...] = field(default=(), compare=False)

    def after(self, machine: Machine) -> Machine:
        """Return the machine on its way."""
        moving = replace(machine, starting=self.start, to_another_host=self.to_another_host)
        return replace(moving, program=self.program, crash=self.crash, addresses=self.addresses)


@dataclass(frozen=True, slots=True)
class AddDevice:
    """One device more, a VFIO device or one that a combination names; a hidden failover primary counts as one."""

    device: Device
    is_vfio: bool = True

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the device plugged in."""
        return machine.with_device(self.device) if self.is_vfio else machine.with_other(self.device)

    def meets_a_leftover(self, before: Machine, capability: str) -> bool:
        """A capability that was on in the last migration, and is on still, is what that left behind."""
        return before.left_over(capability)


@dataclass(frozen=True, slots=True)
class OpenBlockNode:
    """One block node more that is a VFIO device."""

    node: Device

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the node opened."""
        return machine.with_block(self.node)

    def meets_a_leftover(self, before: Machine, capability: str) -> bool:
        """As for a device that is plugged in."""
        return before.left_over(capability)


@dataclass(frozen=True, slots=True)
class SetProperty(_Lasting):
    """A QOM property that is set, of those that decide how QEMU sees a VFIO device."""

    change: Change

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the change."""
        return replace(machine, change=self.change)


@dataclass(frozen=True, slots=True)
class OpenMonitor(_Lasting):
    """Another monitor of the same QEMU."""

    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with a way around the guard."""
        return replace(machine, new_monitor=self.how)


@dataclass(frozen=True, slots=True)
class UseAddress(_Lasting):
    """Addresses at which QEMU would listen, or to which it would connect."""

    addresses: tuple[str, ...]

    def after(self, machine: Machine) -> Machine:
        """Return the machine with QEMU there."""
        return replace(machine, addresses=self.addresses)


@dataclass(frozen=True, slots=True)
class TurnAgainstMonitor(_Lasting):
    """What cuts QEMU's own monitor off, or reaches guest RAM past it."""

    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with that done."""
        return replace(machine, deputy=self.how)


@dataclass(frozen=True, slots=True)
class ChangeMonitor(_Lasting):
    """A QOM object that is changed or removed, and may be a monitor. ``path`` is its own, ``how`` says what is done."""

    path: str
    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the object changed."""
        return replace(machine, monitor_change=self.how)


@dataclass(frozen=True, slots=True)
class RunProgram(_Lasting):
    """A program that QEMU would run."""

    program: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the program on its way."""
        return replace(machine, program=self.program)


@dataclass(frozen=True, slots=True)
class WriteHmp(_Lasting):
    """A line of HMP that may change something, and that no reader knows more about."""

    name: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine after who knows what."""
        return replace(machine, hmp_write=self.name)


@dataclass(frozen=True, slots=True)
class CallUnlisted(_Lasting):
    """A command that QEMU's schema does not have."""

    command: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine after who knows what."""
        return replace(machine, unlisted=self.command)


@dataclass(frozen=True, slots=True)
class EndQemu(_Lasting):
    """A request that is known to end some QEMUs."""

    crash: Crash

    def after(self, machine: Machine) -> Machine:
        """Return the machine as the request is about to end it."""
        return replace(machine, crash=self.crash)
