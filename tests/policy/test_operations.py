"""Operations: what the machine is after each of them, and which excuse a capability that was left on."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.crashes import crash
from qmpguard.policy.device import Device
from qmpguard.policy.machine import Change, Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import (
    AddDevice,
    AddNetdev,
    CallUnlisted,
    ChangeMonitor,
    EndQemu,
    OpenBlockNode,
    OpenMonitor,
    Operation,
    RemoveNetdev,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    TurnAgainstMonitor,
    UseAddress,
    UseDescriptor,
    WriteHmp,
)

GPU = Device("/machine/peripheral/g", "vfio-pci", "g")
CRASH = crash("qom-list-types", {"implements": "x"}) or crash("info qdm", {})
LEFT = Machine.of(left_on=["postcopy-ram"], migration="completed")

#: each operation, and what of a machine it changes
TABLE: list[tuple[Operation, dict[str, Any]]] = [
    (
        SetCapabilities((("multifd", True), ("xbzrle", False)), "program", (("mode", "normal"),)),
        {
            "setting": True,
            "turned_on": {"multifd"},
            "turned_off": {"xbzrle"},
            "changed_parameters": (("mode", "normal"),),
            "program": "program",
        },
    ),
    (
        StartMigration(Start.OUTGOING, "program", to_another_host=True, addresses=("a",)),
        {"starting": Start.OUTGOING, "program": "program", "to_another_host": True, "addresses": ("a",)},
    ),
    (StartMigration(Start.INCOMING, numbered="uri"), {"starting": Start.INCOMING, "numbered": "uri"}),
    (AddDevice(GPU), {"added": (GPU,)}),
    (AddDevice(GPU, addresses=("a",), numbered="fd"), {"added": (GPU,), "addresses": ("a",), "numbered": "fd"}),
    (AddDevice(GPU, is_vfio=False), {"added_others": (GPU,)}),
    (OpenBlockNode(GPU), {"opened": (GPU,)}),
    (OpenBlockNode(GPU, ("a",), "fd"), {"opened": (GPU,), "addresses": ("a",), "numbered": "fd"}),
    (
        AddNetdev(GPU, "program", "netdev_add", addresses=("a",), numbered="fd"),
        {
            "added_netdevs": (GPU,),
            "program": "program",
            "hmp_write": "netdev_add",
            "addresses": ("a",),
            "numbered": "fd",
        },
    ),
    (AddNetdev(GPU), {"added_netdevs": (GPU,)}),
    (RemoveNetdev("n"), {}),
    (RemoveNetdev("n", "netdev_del"), {"hmp_write": "netdev_del"}),
    (SetProperty(Change("/a", "realized")), {"change": Change("/a", "realized")}),
    (OpenMonitor("gdbserver"), {"new_monitor": "gdbserver"}),
    (UseAddress(("a", "b")), {"addresses": ("a", "b")}),
    (UseDescriptor("fd"), {"numbered": "fd"}),
    (UseDescriptor("fd", "program", "line"), {"numbered": "fd", "program": "program", "hmp_write": "line"}),
    (TurnAgainstMonitor("yank"), {"turned_against_monitor": "yank"}),
    (ChangeMonitor("/objects/m", "object-del"), {"monitor_change": "object-del"}),
    (RunProgram("program"), {"program": "program"}),
    (WriteHmp("stop"), {"hmp_write": "stop"}),
    (CallUnlisted("new"), {"unlisted": "new"}),
]


def name(value: object) -> str:
    return type(value).__name__ if not isinstance(value, dict) else ""


@pytest.mark.parametrize(("operation", "changes"), TABLE, ids=name)
def test_an_operation_changes_this_and_nothing_else(operation: Operation, changes: dict[str, Any]) -> None:
    before = Machine.of()
    after = operation.after(before)
    fields = set(before.__slots__)
    assert {field for field in fields if getattr(after, field) != getattr(before, field)} == changes.keys()
    assert {field: getattr(after, field) for field in changes} == changes


def test_what_ends_qemu_names_its_row() -> None:
    assert CRASH is not None
    assert EndQemu(CRASH).after(Machine.of()).crash is CRASH
    assert StartMigration(Start.OUTGOING, crash=CRASH).after(Machine.of()).crash is CRASH


@pytest.mark.parametrize("operation", [operation for operation, _ in TABLE], ids=name)
def test_only_for_what_is_plugged_in_a_capability_may_be_left_over(operation: Operation) -> None:
    plugs = isinstance(operation, AddDevice | AddNetdev | OpenBlockNode)
    assert operation.allows_stale(LEFT, "postcopy-ram") is plugs
    assert not operation.allows_stale(Machine.of(), "postcopy-ram")


def test_addresses_make_no_other_operation_of_a_migration() -> None:
    assert StartMigration(Start.OUTGOING, addresses=("a",)) == StartMigration(Start.OUTGOING)
