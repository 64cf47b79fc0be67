"""Lines of HMP in QMP's words: each command of HMP with the request that does the same, or with none."""

from __future__ import annotations

from typing import get_args

import pytest

from qmpguard.policy.hmp.commands import (
    DeviceAdd,
    DeviceDel,
    Gdbserver,
    HmpCommand,
    Info,
    Migrate,
    MigrateIncoming,
    MigrateRecover,
    MigrateSetCapability,
    MigrateSetParameter,
    MigrateStartPostcopy,
    NetdevAdd,
    NetdevDel,
    ObjectAdd,
    ObjectDel,
    Other,
    QomSet,
    Rejected,
    SaveVm,
    UnreadableLine,
)
from qmpguard.policy.hmp.translation import NAMES, as_qmp
from qmpguard.policy.readers import READERS
from qmpguard.wire.json import Value

Same = tuple[str, dict[str, Value]] | None


def set_parameter(name: str, value: Value) -> Same:
    return "migrate-set-parameters", {name: value}


def set_capability(name: str, *, state: bool) -> Same:
    return "migrate-set-capabilities", {"capabilities": [{"capability": name, "state": state}]}


def set_property(value: Value) -> Same:
    return "qom-set", {"path": "/a", "property": "realized", "value": value}


TABLE: list[tuple[HmpCommand, Same]] = [
    (Migrate("tcp:h:1", resume=False), ("migrate", {"uri": "tcp:h:1", "resume": False})),
    (Migrate("tcp:h:1", resume=True), ("migrate", {"uri": "tcp:h:1", "resume": True})),
    (MigrateIncoming("tcp::1"), ("migrate-incoming", {"uri": "tcp::1"})),
    (MigrateRecover("tcp:h:1"), ("migrate-recover", {"uri": "tcp:h:1"})),
    (MigrateStartPostcopy(), ("migrate-start-postcopy", {})),
    (MigrateSetCapability("postcopy-ram", state=True), set_capability("postcopy-ram", state=True)),
    (MigrateSetCapability("x", state=False), set_capability("x", state=False)),
    (MigrateSetParameter("max-bandwidth", "5"), set_parameter("max-bandwidth", "5")),
    (MigrateSetParameter("mode", "off"), set_parameter("mode", "off")),  # no capability: the text is the value
    *((MigrateSetParameter("postcopy-ram", on), set_parameter("postcopy-ram", True)) for on in ("on", "yes", "1")),
    *((MigrateSetParameter("postcopy-ram", off), set_parameter("postcopy-ram", False)) for off in ("off", "n", "0")),
    (DeviceAdd({"driver": "vfio-pci", "id": "g"}), ("device_add", {"driver": "vfio-pci", "id": "g"})),
    (ObjectAdd({"qom-type": "monitor-qmp"}), ("object-add", {"qom-type": "monitor-qmp"})),
    (QomSet("/a", "realized", "on", json=False), set_property(True)),
    (QomSet("/a", "realized", "false", json=True), set_property(False)),
    (SaveVm("t"), ("snapshot-save", {})),
    *((Other(line), (command, {})) for line, command in NAMES.items()),
    (Other("stop"), None),
    (NetdevAdd({"type": "user"}), None),
    (NetdevDel("n"), None),
    (ObjectDel("m"), None),
    (Gdbserver(None), None),
    (Info("migrate"), None),
    (DeviceDel("g"), None),
    (Rejected("no command"), None),
    (UnreadableLine("JSON"), None),
]


@pytest.mark.parametrize(("command", "same"), TABLE, ids=str)
def test_a_line_is_the_request_that_does_the_same(command: HmpCommand, same: Same) -> None:
    assert as_qmp(command) == same


def test_the_table_has_every_command() -> None:
    assert {type(command) for command, _ in TABLE} == set(get_args(HmpCommand))


def test_whatever_a_line_is_translated_to_has_a_reader() -> None:
    assert {same[0] for _, same in TABLE if same is not None} <= READERS.keys()
