"""Combinations: types of devices that are refused together with a capability or a migration parameter.

A row names the devices, the setting, and the moments at which it is judged. The built-in rows, such as `vfio-postcopy`,
and the rows of a configuration (`[[policy.combination]]`) are judged by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from qmpguard.policy.device import Device
from qmpguard.policy.facts import read_together
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, POSTCOPY_RAM, Start
from qmpguard.policy.mode import Mode
from qmpguard.policy.netdevs import NETDEVS
from qmpguard.policy.problem import Problem
from qmpguard.policy.qemu_check import is_migrating_out, read_for_start
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: replaced by the name of the first device in a row's message
DEVICE = "{device}"
#: the booleans of HMP (QEMU qapi/string-input-visitor.c: parse_type_bool)
_BOOLEANS = dict.fromkeys(("on", "yes", "y"), "true") | dict.fromkeys(("off", "no", "n"), "false")


class Moment(Enum):
    """A moment at which a combination is judged."""

    SET = "set"  # the capability is switched on, or the parameter is set
    PLUG = "plug"  # a device is plugged in
    START = "start"  # a migration starts in either direction, or its postcopy phase
    SNAPSHOT = "snapshot"  # a snapshot is saved to disk, or loaded


#: the moments that matter for migrations; a snapshot to disk is not a migration
MIGRATION = frozenset({Moment.SET, Moment.PLUG, Moment.START})


def moment_of(machine: Machine) -> Moment | None:
    """Return the moment that an operation has brought a machine to; None for a machine without an operation."""
    if machine.starting is not None:
        return Moment.SNAPSHOT if machine.starting in (Start.SAVE, Start.LOAD) else Moment.START
    if machine.added or machine.added_others or machine.opened or machine.added_netdevs:
        return Moment.PLUG
    return Moment.SET if machine.setting else None


class Strictness(Protocol):
    """The parts of a policy that a combination depends on: `qmpguard.policy.policy.Policy`."""

    @property
    def strict(self) -> bool:
        """Whether the profile is strict."""
        ...

    @property
    def allow_failover_primary(self) -> bool:
        """Whether a device is exempt whose failover standby is present."""
        ...


class Setting(Protocol):
    """A capability or a parameter of a combination."""

    @property
    def name(self) -> str:
        """The name in QMP."""
        ...

    def is_on(self, machine: Machine) -> bool:
        """Say whether the setting holds on a machine."""
        ...


@dataclass(frozen=True, slots=True)
class Capability:
    """A migration capability that is on."""

    name: str

    def is_on(self, machine: Machine) -> bool:
        """Say whether the capability is on."""
        return machine.has(self.name)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A migration parameter with a value, as text."""

    name: str
    value: str

    def is_on(self, machine: Machine) -> bool:
        """Say whether the parameter has the value."""
        return _as_text(machine.parameter(self.name)) == _BOOLEANS.get(self.value, self.value)


def _as_text(value: Value) -> str | None:
    """Return a parameter's value as text, in the same spelling for QMP and HMP; None for a list or an object."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Number(text):
            return text
        case str():
            return _BOOLEANS.get(value, value)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Combination:
    """One row: devices that are refused together with a setting.

    ``types`` are globs of QOM types; None: every device that counts as VFIO. The device's name is put before
    ``message``, or in place of `{device}` in it. If ``fix`` is empty, the fix depends on the moment. ``pair_message``
    and ``pair_fix`` are the warning where every device is the primary of a matched failover pair, and profile strict is
    not on; empty: such a device is refused like any other.
    """

    id: str
    types: tuple[str, ...] | None
    setting: Setting
    at: frozenset[Moment]
    message: str
    fix: str = ""
    standard: Mode = Mode.ENFORCE
    strict: Mode = Mode.ENFORCE
    text: str = ""
    pair_message: str = ""
    pair_fix: str = ""

    @property
    def summary(self) -> str:
        """The combination in one sentence."""
        setting = self.setting
        with_ = f"`{setting.name}` = `{setting.value}`" if isinstance(setting, Parameter) else f"`{setting.name}`"
        types = "VFIO devices" if self.types is None else ", ".join(f"`{glob}`" for glob in self.types)
        return f"Refuse {types} together with {with_}."

    def matches(self, driver: str) -> bool:
        """Say whether a glob of the row matches a QOM type; False for a row about VFIO devices."""
        return self.types is not None and any(fnmatchcase(driver, glob) for glob in self.types)

    def fails(self, machine: Machine, policy: Strictness) -> Problem | None:
        """Return the problem where a machine has both a device and the setting."""
        now = moment_of(machine)
        looks = now is None or now in self.at or self._may_be_in_snapshot(machine, policy)
        if not looks or self._is_irrelevant(machine) or not self.setting.is_on(machine):
            return None
        devices = self._vfio(machine, policy) if self.types is None else self._of_types(machine)
        if not devices:
            return None
        if self.pair_message and not policy.strict and all(_is_matched(machine, device) for device in devices):
            return self._pair_warning(machine, devices)
        return self._problem(machine, devices)

    def _pair_warning(self, machine: Machine, devices: tuple[Device, ...]) -> Problem:
        labels = tuple(device.label for device in devices)
        message = f"{machine.name_of(devices[0])}: {self.pair_message}"
        return Problem(message, self.pair_fix, labels, self.setting.name, advisory=True)

    def _problem(self, machine: Machine, devices: tuple[Device, ...]) -> Problem:
        name = machine.name_of(devices[0]) if self.types is None else devices[0].name
        message = self.message.replace(DEVICE, name) if DEVICE in self.message else f"{name}: {self.message}"
        labels = tuple(device.label for device in devices)
        fix = self.fix or _fix(machine, self.setting, devices, hint=self.types is None)
        match self.setting:
            case Parameter(parameter, value):
                return Problem(message, fix, labels, parameter=f"{parameter} is {value}")
            case setting:
                return Problem(message, fix, labels, setting.name)

    def _may_be_in_snapshot(self, machine: Machine, policy: Strictness) -> bool:
        """Say whether a loaded snapshot may be a forged one that begins like a postcopy migration.

        QEMU discards all RAM at POSTCOPY_ADVISE (migration/savevm.c: loadvm_postcopy_handle_advise).
        """
        return policy.strict and machine.starting is Start.LOAD and self.setting.name == POSTCOPY_RAM

    def _is_irrelevant(self, machine: Machine) -> bool:
        """Say whether the setting does not matter: a background snapshot has no postcopy phase."""
        return machine.starting is Start.POSTCOPY and self.setting.name == BACKGROUND_SNAPSHOT

    def _vfio(self, machine: Machine, policy: Strictness) -> tuple[Device, ...]:
        if machine.starting is None:  # for a start the devices are mostly known, with the capabilities
            read_together(lambda: machine.devices, lambda: machine.blocks)
        devices = machine.devices
        if policy.allow_failover_primary:
            machine.properties_of(devices, "failover_pair_id")
            devices = tuple(device for device in devices if not machine.has_standby(device))
        if devices and machine.starting is not None:
            self._read_for_text(machine, devices)
        return (*devices, *machine.blocks)

    def _read_for_text(self, machine: Machine, devices: tuple[Device, ...]) -> None:
        """Read all that the problem and QEMU's own check of it need, so that one burst queries it."""
        read_together(
            lambda: machine.blocks,
            lambda: machine.name_of(devices[0]),
            lambda: self.fix or _fix(machine, self.setting, devices, hint=self.types is None),
            lambda: read_for_start(machine, devices[0]),
            decided=True,
        )

    def _of_types(self, machine: Machine) -> tuple[Device, ...]:
        devices = (*machine.devices, *machine.others, *machine.netdevs)
        return tuple(sorted((d for d in devices if self.matches(d.driver)), key=lambda device: device.path))


def _is_matched(machine: Machine, device: Device) -> bool:
    """Say whether a device is the primary of a failover pair that QEMU unplugs for the migration by itself.

    On the source the guest must have negotiated failover, which QEMU tells by the event FAILOVER_NEGOTIATED. That the
    primary is plugged in does not show it: QEMU hides only one that comes after its standby (hw/net/virtio-net.c:
    failover_hide_primary_device, virtio_net_handle_migration_primary). A destination learns of the negotiation by the
    migration, so there the primary must still be hidden: one that is plugged in has pinned the RAM that postcopy
    discards. Of two primaries of one standby QEMU unplugs one.
    """
    if device.driver != "vfio-pci" or device in machine.added or not machine.has_standby(device):
        return False
    if not machine.is_sole_primary(device):
        return False
    is_hidden = device in machine.facts.hidden
    return is_hidden if machine.runstate == "inmigrate" else not is_hidden and _has_negotiated(machine, device)


def _has_negotiated(machine: Machine, device: Device) -> bool:
    (standby,) = machine.properties_of((device,), "failover_pair_id")
    return standby in machine.facts.negotiated and machine.runstate != "prelaunch"


def _fix(machine: Machine, setting: Setting, devices: tuple[Device, ...], *, hint: bool) -> str:
    if moment_of(machine) is Moment.PLUG and machine.runstate == "inmigrate":
        return "plug the device in after the migration has completed"
    if machine.starting is Start.POSTCOPY:
        return "let the migration go on as precopy, or cancel it with migrate_cancel"
    if is_migrating_out(machine):  # during a migration QEMU refuses to set capabilities and to (un)plug devices
        return "a migration is under way: cancel it with migrate_cancel, or try again when it has ended"
    if isinstance(setting, Parameter):
        return f"set it otherwise with migrate-set-parameters, or {_unplug(devices)}"
    fix = f"turn it off with migrate-set-capabilities, or {_unplug(devices)}"
    return fix + _failover_hint(machine, devices[0]) if hint else fix


def _unplug(devices: tuple[Device, ...]) -> str:
    """Return how the devices are removed; a network back end is no QOM device, and stays after `device_del`."""
    back_ends = any(device.driver in NETDEVS for device in devices)
    return "unplug the device, and remove its back end with netdev_del" if back_ends else "unplug the device"


def _failover_hint(machine: Machine, first: Device) -> str:
    """Return a hint at `allow_failover_primary` where the first device is a failover primary; else nothing."""
    if not machine.has_standby(first):
        return ""
    return "; allow_failover_primary lets failover pairs through, at your own risk"
