"""Operations: the effects of intercepted requests, as values. Each returns the machine after it."""

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
    """The effect of a request on a machine."""

    def after(self, machine: Machine) -> Machine:
        """Return the machine after the operation."""
        ...

    def allows_stale(self, before: Machine, capability: str) -> bool:
        """Say whether a problem with a capability is only a warning, since the capability is stale."""
        ...


class _AlwaysCounts:
    """An operation for which a stale capability counts like any other."""

    __slots__ = ()

    def allows_stale(self, before: Machine, capability: str) -> bool:
        """Return False: the effect of the operation lasts until a migration uses the capability."""
        return False


@dataclass(frozen=True, slots=True)
class SetCapabilities(_AlwaysCounts):
    """Capabilities switched on and off, in the request's order, and migration parameters that are set.

    ``program`` is a program that the same request makes QEMU run.
    """

    states: tuple[tuple[str, bool], ...]
    program: str | None = None
    parameters: tuple[tuple[str, Value], ...] = ()

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the capabilities and parameters set."""
        return replace(
            machine.with_capabilities(self.states).with_parameters(self.parameters), program=self.program, setting=True
        )


@dataclass(frozen=True, slots=True)
class StartMigration(_AlwaysCounts):
    """The start of a migration in either direction, of its postcopy phase, or of a snapshot to disk or back.

    ``program`` is a program that it runs. ``to_another_host``: its target is certainly another host. ``crash``: it is
    known to end some QEMUs.
    """

    start: Start
    program: str | None = None
    to_another_host: bool = False
    crash: Crash | None = None
    addresses: tuple[str, ...] = field(default=(), compare=False)
    numbered: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the migration started."""
        return replace(
            machine,
            starting=self.start,
            to_another_host=self.to_another_host,
            program=self.program,
            crash=self.crash,
            addresses=self.addresses,
            numbered=self.numbered,
        )


@dataclass(frozen=True, slots=True)
class AddDevice:
    """A new device: a VFIO device, or one that a combination names. A hidden failover primary counts too."""

    device: Device
    is_vfio: bool = True
    addresses: tuple[str, ...] = field(default=(), compare=False)
    numbered: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the device plugged in."""
        added = machine.with_device(self.device) if self.is_vfio else machine.with_other(self.device)
        return replace(added, addresses=self.addresses, numbered=self.numbered)

    def allows_stale(self, before: Machine, capability: str) -> bool:
        """Return whether the capability is stale."""
        return before.is_stale(capability)


@dataclass(frozen=True, slots=True)
class OpenBlockNode:
    """A new block node that is a VFIO device."""

    node: Device
    addresses: tuple[str, ...] = field(default=(), compare=False)
    numbered: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the node opened."""
        return replace(machine.with_block(self.node), addresses=self.addresses, numbered=self.numbered)

    def allows_stale(self, before: Machine, capability: str) -> bool:
        """Return whether the capability is stale."""
        return before.is_stale(capability)


@dataclass(frozen=True, slots=True)
class AddNetdev:
    """A new network back end that accesses guest RAM by itself.

    ``program`` is a program that it runs, ``line`` the HMP command if it comes by HMP.
    """

    netdev: Device
    program: str | None = None
    line: str | None = None
    addresses: tuple[str, ...] = field(default=(), compare=False)
    numbered: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the back end."""
        added = replace(machine.with_netdev(self.netdev), addresses=self.addresses, numbered=self.numbered)
        return replace(added, program=self.program, hmp_write=self.line)

    def allows_stale(self, before: Machine, capability: str) -> bool:
        """Return whether the capability is stale."""
        return before.is_stale(capability)


@dataclass(frozen=True, slots=True)
class RemoveNetdev(_AlwaysCounts):
    """A network back end that is removed. ``line`` is the HMP command if it comes by HMP."""

    id: str
    line: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine before QEMU's reply: the back end counts until then."""
        return replace(machine, hmp_write=self.line)


@dataclass(frozen=True, slots=True)
class SetProperty(_AlwaysCounts):
    """A QOM property that is set, one of `VFIO_PROPERTIES`."""

    change: Change

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the change."""
        return replace(machine, change=self.change)


@dataclass(frozen=True, slots=True)
class OpenMonitor(_AlwaysCounts):
    """Another monitor of the same QEMU."""

    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with another monitor, a way around the guard."""
        return replace(machine, new_monitor=self.how)


@dataclass(frozen=True, slots=True)
class UseAddress(_AlwaysCounts):
    """Addresses at which QEMU would listen, or to which QEMU would connect."""

    addresses: tuple[str, ...]

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the addresses in use."""
        return replace(machine, addresses=self.addresses)


@dataclass(frozen=True, slots=True)
class UseDescriptor(_AlwaysCounts):
    """A descriptor that an argument, ``numbered``, names by its number.

    ``program`` is a program that the same request runs, ``line`` the HMP command if it comes by HMP.
    """

    numbered: str
    program: str | None = None
    line: str | None = None

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the descriptor in use."""
        return replace(machine, numbered=self.numbered, program=self.program, hmp_write=self.line)


@dataclass(frozen=True, slots=True)
class TurnAgainstMonitor(_AlwaysCounts):
    """A request that would cut QEMU's own monitor off, or reach guest RAM without it."""

    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the request executed."""
        return replace(machine, turned_against_monitor=self.how)


@dataclass(frozen=True, slots=True)
class ChangeMonitor(_AlwaysCounts):
    """A change or removal of a QOM object that may be a monitor, at ``path``. ``how`` names the request."""

    path: str
    how: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the object changed."""
        return replace(machine, monitor_change=self.how)


@dataclass(frozen=True, slots=True)
class RunProgram(_AlwaysCounts):
    """A program that QEMU would run."""

    program: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the program started."""
        return replace(machine, program=self.program)


@dataclass(frozen=True, slots=True)
class WriteHmp(_AlwaysCounts):
    """An HMP line that may change the VM, and that no reader understands further."""

    name: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the HMP line executed."""
        return replace(machine, hmp_write=self.name)


@dataclass(frozen=True, slots=True)
class CallUnlisted(_AlwaysCounts):
    """A command that QEMU's schema does not have."""

    command: str

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the command executed."""
        return replace(machine, unlisted=self.command)


@dataclass(frozen=True, slots=True)
class EndQemu(_AlwaysCounts):
    """A request that is known to end some QEMUs."""

    crash: Crash

    def after(self, machine: Machine) -> Machine:
        """Return the machine with the request executed."""
        return replace(machine, crash=self.crash)
