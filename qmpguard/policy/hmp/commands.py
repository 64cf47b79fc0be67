"""The HMP commands that are judged, as values: the results of `parser`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Migrate:
    """``migrate [-d] [-b] [-i] [-r] uri``. ``-r`` means ``resume``; the other flags do not matter."""

    uri: str
    resume: bool


@dataclass(frozen=True, slots=True)
class MigrateIncoming:
    """``migrate_incoming uri``."""

    uri: str


@dataclass(frozen=True, slots=True)
class MigrateRecover:
    """``migrate_recover uri``."""

    uri: str


@dataclass(frozen=True, slots=True)
class MigrateStartPostcopy:
    """``migrate_start_postcopy``."""


@dataclass(frozen=True, slots=True)
class MigrateSetCapability:
    """``migrate_set_capability capability on|off``. QEMU need not know the name."""

    name: str
    state: bool


@dataclass(frozen=True, slots=True)
class MigrateSetParameter:
    """``migrate_set_parameter parameter value``. Where versions parse the value differently, the effective one."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class DeviceAdd:
    """``device_add driver[,prop=value…]``: the folded options, always with ``driver``, with ``id`` if there is one."""

    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeviceDel:
    """``device_del id``, where the id may be a QOM path."""

    id: str


@dataclass(frozen=True, slots=True)
class ObjectAdd:
    """``object_add type,id=…``, or JSON: the options, always with ``qom-type``; nested keys keep their dots."""

    options: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class ObjectDel:
    """``object_del id``."""

    id: str


@dataclass(frozen=True, slots=True)
class NetdevAdd:
    """``netdev_add type[,prop=value…]``: the options; every value of `guestfwd`, since some versions use them all."""

    options: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class NetdevDel:
    """``netdev_del id``."""

    id: str


@dataclass(frozen=True, slots=True)
class QomSet:
    """``qom-set [-j] path property value``; with ``-j`` the value is JSON text."""

    path: str
    property: str
    value: str
    json: bool


@dataclass(frozen=True, slots=True)
class Gdbserver:
    """``gdbserver [device]``; None is QEMU's default, ``tcp::1234``, and ``none`` switches it off."""

    device: str | None


@dataclass(frozen=True, slots=True)
class SaveVm:
    """``savevm [tag]``."""

    tag: str | None


@dataclass(frozen=True, slots=True)
class Info:
    """``info [what]``, a query; ``what`` is empty for the list of topics."""

    what: str


@dataclass(frozen=True, slots=True)
class Other:
    """A command that no reader judges, or one that QEMU does not know. Its arguments are not parsed."""

    name: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line without effect: every version refuses it while parsing, or answers with a help text.

    ``newer``: it has a flag or an argument that a later version may know.
    """

    reason: str
    newer: bool = False


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line whose effect in QEMU is unknown."""

    reason: str


HmpCommand: TypeAlias = (
    Migrate
    | MigrateIncoming
    | MigrateRecover
    | MigrateStartPostcopy
    | MigrateSetCapability
    | MigrateSetParameter
    | DeviceAdd
    | DeviceDel
    | ObjectAdd
    | ObjectDel
    | NetdevAdd
    | NetdevDel
    | QomSet
    | Gdbserver
    | SaveVm
    | Info
    | Other
    | Rejected
    | UnreadableLine
)
