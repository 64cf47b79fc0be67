"""Readers of the commands that create, change or remove objects. Any object may be a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.descriptors import is_descriptor, is_number
from qmpguard.policy.device import VFIO_PROPERTIES
from qmpguard.policy.machine import Change
from qmpguard.policy.operations import ChangeMonitor, OpenMonitor, SetProperty, TurnAgainstMonitor, UseDescriptor
from qmpguard.policy.reading.devices import read_addresses
from qmpguard.policy.reading.migration import switched
from qmpguard.policy.reading.result import MAX_ENTRIES, Arguments, Harmless, Reading, Unreadable
from qmpguard.policy.schema import CAPABILITIES

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy
    from qmpguard.wire.json import Value


def read_object_add(arguments: Arguments, policy: Policy) -> Reading:
    """``object-add``: since QEMU 11.1 a monitor is an object."""
    match arguments.get("qom-type"):
        case str(kind) if kind.startswith("monitor"):
            return OpenMonitor(f"object-add of '{kind}'")
        case str("qtest"):
            return TurnAgainstMonitor("object-add of 'qtest'")
        case str():
            return read_addresses(arguments, policy)
        case _:
            return Unreadable("'qom-type' is not a string")


def read_object_del(arguments: Arguments, policy: Policy) -> Reading:
    """``object-del``: judged where the object is a monitor."""
    match arguments.get("id"):
        case str(identity):
            return ChangeMonitor(f"/objects/{identity}", f"object-del of '{identity}'")
        case _:
            return Unreadable("'id' is not a string")


#: the protocols of add_client that are not character devices
_DISPLAYS = frozenset({"vnc", "spice", "@dbus-display"})


def read_add_client(arguments: Arguments, policy: Policy) -> Reading:
    """``add_client``: passes a socket to a display, or to a character device, which may be a monitor's."""
    match arguments.get("protocol"):
        case str(protocol) if protocol in _DISPLAYS:
            return Harmless()
        case str(protocol):
            return OpenMonitor(f"add_client to the character device '{protocol}'")
        case _:
            return Unreadable("'protocol' is not a string")


#: the properties of monitor objects (11.1: monitor/qmp.c, monitor/hmp.c)
MONITOR_PROPERTIES = frozenset({"chardev", "pretty", "close-action", "readline"})
#: the properties of QEMU's migration object that are capabilities; the object is not in the QOM tree today
_CAPABILITY_PROPERTIES = {"x-" + name.removeprefix("x-"): name for name in CAPABILITIES}


def read_qom_set(arguments: Arguments, policy: Policy) -> Reading:
    """``qom-set``: judged by the name of the property, since QEMU accepts partial paths."""
    path, name = arguments.get("path"), arguments.get("property")
    if not isinstance(path, str) or not isinstance(name, str):
        return Unreadable("'path' or 'property' is not a string")
    if name in _CAPABILITY_PROPERTIES:
        return switched([(_CAPABILITY_PROPERTIES[name], arguments.get("value") is not False)], policy)
    if name in MONITOR_PROPERTIES:
        return ChangeMonitor(path, f"qom-set of '{name}' of '{path}'")
    if is_descriptor(name) and _may_be_number(arguments.get("value")):
        return UseDescriptor(name)
    return SetProperty(Change(path, name)) if name in VFIO_PROPERTIES else Harmless()


def _may_be_number(value: Value) -> bool:
    """Say whether a descriptor may be a number.

    The value of a line of HMP is a boolean here, and no name: ``human-monitor-command`` does not know those of `getfd`.
    """
    return isinstance(value, bool) or is_number(value)


def read_yank(arguments: Arguments, policy: Policy) -> Reading:
    """``yank``: judged where it closes a character device, which may be the guard's own monitor."""
    instances = arguments.get("instances")
    entries = instances[:MAX_ENTRIES] if isinstance(instances, list) else []
    cut = any(isinstance(entry, dict) and entry.get("type") == "chardev" for entry in entries)
    too_many = isinstance(instances, list) and len(instances) > MAX_ENTRIES
    return TurnAgainstMonitor("yank of a character device") if cut or too_many else Harmless()
