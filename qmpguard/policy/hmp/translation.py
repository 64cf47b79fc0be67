"""HMP commands as QMP requests of the same effect, so that one reader judges both."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from qmpguard.policy.hmp import commands as hmp
from qmpguard.policy.schema import CAPABILITIES

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: the values of a boolean that is off in HMP (QEMU qapi/string-input-visitor.c: parse_type_bool)
OFF = frozenset({"off", "no", "false", "n", "0"})

#: commands whose arguments do not matter, and their names in QMP
NAMES = {
    "loadvm": "snapshot-load",
    "migrate_cancel": "migrate_cancel",
    "migrate_pause": "migrate-pause",
    "migrate_continue": "migrate-continue",
}


#: the same for commands with a type of their own
_WHOLE = {hmp.MigrateStartPostcopy: "migrate-start-postcopy", hmp.SaveVm: "snapshot-save"}


def as_qmp(command: hmp.HmpCommand) -> tuple[str, dict[str, Value]] | None:
    """Return the QMP command and arguments of the same effect; None where no QMP request is judged in its place."""
    match command:
        case hmp.Migrate(uri, resume):
            return "migrate", {"uri": uri, "resume": resume}
        case hmp.MigrateIncoming(uri):
            return "migrate-incoming", {"uri": uri}
        case hmp.MigrateRecover(uri):
            return "migrate-recover", {"uri": uri}
        case hmp.MigrateSetCapability(name, state):
            return "migrate-set-capabilities", {"capabilities": [{"capability": name, "state": state}]}
        case hmp.MigrateSetParameter(name, value):
            return "migrate-set-parameters", {name: value not in OFF if name in CAPABILITIES else value}
        case hmp.DeviceAdd(options):
            return "device_add", dict(options)
        case hmp.ObjectAdd(options):
            return "object-add", dict(options)
        case hmp.QomSet(path, name, value):
            return "qom-set", {"path": path, "property": name, "value": value not in OFF}
        case hmp.MigrateStartPostcopy() | hmp.SaveVm():
            return _WHOLE[type(command)], {}
        case hmp.Other(name):
            return (NAMES[name], {}) if name in NAMES else None
        case (
            hmp.NetdevAdd()
            | hmp.NetdevDel()
            | hmp.ObjectDel()
            | hmp.Gdbserver()
            | hmp.Info()
            | hmp.DeviceDel()
            | hmp.Rejected()
            | hmp.UnreadableLine()
        ):
            return None
        case _:
            assert_never(command)
