"""Combinations: kinds of devices that must not meet a capability or a migration parameter.

A row says which devices, which setting, and at which moments it is looked at. QEMU's own rows, `vfio-postcopy` and its
like, and the rows of a configuration (`[[policy.combination]]`) are judged by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from qmpguard.policy.device import Device
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, POSTCOPY_RAM, Start
from qmpguard.policy.policy import Mode, Rule
from qmpguard.policy.qemu_check import outgoing
from qmpguard.policy.verdict import Problem
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy
    from qmpguard.wire.json import Value

#: stands in a row's message for the name of the first device
DEVICE = "{device}"
#: how HMP says that something is on or off (QEMU qapi/string-input-visitor.c: parse_type_bool)
_SWITCHES = dict.fromkeys(("on", "yes", "y"), "true") | dict.fromkeys(("off", "no", "n"), "false")


class At(Enum):
    """A moment at which a combination is looked at."""

    SET = "set"  # the capability is switched on, or the parameter is set
    PLUG = "plug"  # a device is plugged in
    START = "start"  # a migration starts in either direction, or its postcopy phase
    SNAPSHOT = "snapshot"  # a snapshot is saved to disk, or loaded


#: the moments at which a migration can be harmed; a snapshot to disk is no migration
MIGRATION = frozenset({At.SET, At.PLUG, At.START})


def moment(machine: Machine) -> At | None:
    """Return what an operation has just done to a machine; None for a machine that nothing was done to."""
    if machine.starting is not None:
        return At.SNAPSHOT if machine.starting in (Start.SAVE, Start.LOAD) else At.START
    if machine.added or machine.added_others or machine.opened:
        return At.PLUG
    return At.SET if machine.setting else None


class Setting(Protocol):
    """A capability or a parameter, as a combination names it."""

    @property
    def name(self) -> str:
        """Its name in QMP."""
        ...

    def is_on(self, machine: Machine) -> bool:
        """Say whether a machine has it set so."""
        ...


@dataclass(frozen=True, slots=True)
class Capability:
    """A migration capability that is on."""

    name: str

    def is_on(self, machine: Machine) -> bool:
        """Say whether a machine has it on."""
        return machine.has(self.name)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A migration parameter with a value, as text."""

    name: str
    value: str

    def is_on(self, machine: Machine) -> bool:
        """Say whether a machine has the parameter set to the value."""
        return _spelled(machine.parameter(self.name)) == _SWITCHES.get(self.value, self.value)


def _spelled(value: Value) -> str | None:
    """Return a parameter's value as text, in one spelling for QMP and HMP; None where it is no scalar."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Number(text):
            return text
        case str():
            return _SWITCHES.get(value, value)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Combination:
    """One row: devices that must not meet a setting.

    ``types`` are globs of QOM types; None: whatever counts as a VFIO device. ``message`` begins with the device's name,
    or has it in place of `{device}`. Where ``fix`` is empty, what helps depends on the moment.
    """

    id: str
    types: tuple[str, ...] | None
    setting: Setting
    at: frozenset[At]
    message: str
    fix: str = ""
    standard: Mode = Mode.ENFORCE
    strict: Mode = Mode.ENFORCE
    text: str = ""

    @property
    def rule(self) -> Rule:
        """The combination's line in the table of rules."""
        return Rule(self.id, self.fails, self.standard, self.strict, self.text or _summary(self))

    def names(self, driver: str) -> bool:
        """Say whether the row names a QOM type; False of a row that speaks of VFIO devices."""
        return self.types is not None and any(fnmatchcase(driver, glob) for glob in self.types)

    def fails(self, machine: Machine, policy: Policy) -> Problem | None:
        """Return the problem where a device and the setting meet."""
        now = moment(machine)
        looks = now is None or now in self.at or self._may_be_loaded(machine, policy)
        if not looks or self._has_no_phase(machine) or not self.setting.is_on(machine):
            return None
        devices = self._vfio(machine, policy) if self.types is None else self._named(machine)
        if not devices:
            return None
        name = devices[0].name
        message = self.message.replace(DEVICE, name) if DEVICE in self.message else f"{name}: {self.message}"
        labels = tuple(device.label for device in devices)
        fix = self.fix or _way_out(machine, self.setting, devices)
        match self.setting:
            case Parameter(parameter, value):
                return Problem(message, fix, labels, parameter=f"{parameter} is {value}")
            case setting:
                return Problem(message, fix, labels, setting.name)

    def _may_be_loaded(self, machine: Machine, policy: Policy) -> bool:
        """Say whether a snapshot that is loaded may begin as the setting's migration does, made so by somebody.

        One that begins with POSTCOPY_ADVISE has all RAM discarded (migration/savevm.c: loadvm_postcopy_handle_advise).
        """
        return policy.strict and machine.starting is Start.LOAD and self.setting.name == POSTCOPY_RAM

    def _has_no_phase(self, machine: Machine) -> bool:
        """Say whether the setting means nothing to what starts: a background snapshot has no postcopy phase."""
        return machine.starting is Start.POSTCOPY and self.setting.name == BACKGROUND_SNAPSHOT

    def _vfio(self, machine: Machine, policy: Policy) -> tuple[Device, ...]:
        if not machine.devices and not machine.blocks:
            return ()
        devices = (*(machine.detailed if machine.devices else ()), *machine.blocks)
        if policy.allow_failover_primary:
            devices = tuple(d for d in devices if not machine.has_standby(d))
        return devices

    def _named(self, machine: Machine) -> tuple[Device, ...]:
        found = [device for device in (*machine.devices, *machine.others) if self.names(device.driver)]
        return tuple(sorted(found, key=lambda device: device.path))


def _way_out(machine: Machine, setting: Setting, devices: tuple[Device, ...]) -> str:
    if moment(machine) is At.PLUG and machine.runstate == "inmigrate":
        return "plug the device in after the migration has completed"
    if machine.starting is Start.POSTCOPY:
        return "let the migration go on as precopy, or cancel it with migrate_cancel"
    if outgoing(machine):  # QEMU lets nothing be switched, plugged or unplugged while one runs
        return "a migration is under way: cancel it with migrate_cancel, or try again when it has ended"
    if isinstance(setting, Parameter):
        return "set it otherwise with migrate-set-parameters, or unplug the device"
    return "turn it off with migrate-set-capabilities, or unplug the device" + _for_pairs(machine, devices)


def _for_pairs(machine: Machine, devices: tuple[Device, ...]) -> str:
    """Name what lets a failover pair through, where a device is the primary of one."""
    if not any(machine.has_standby(device) for device in devices):
        return ""
    return "; allow_failover_primary lets failover pairs through, at your own risk"


def _summary(row: Combination) -> str:
    setting = row.setting
    with_ = f"`{setting.name}` = `{setting.value}`" if isinstance(setting, Parameter) else f"`{setting.name}`"
    types = "VFIO devices" if row.types is None else ", ".join(f"`{glob}`" for glob in row.types)
    return f"Refuse {types} together with {with_}."
