"""A new device, as the arguments of `device_add` describe it."""

from __future__ import annotations

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.new_device import new_device
from qmpguard.wire.json import Number, Value


def test_a_device_is_described_with_what_the_rules_speak_about() -> None:
    arguments: dict[str, Value] = {"id": "g", "host": "65:00.0", "sysfsdev": "/sys/x", "failover_pair_id": "net0"}
    assert new_device("vfio-pci", {**arguments, "bus": "pcie.1"}) == Device(
        "/machine/peripheral/g", "vfio-pci", "g", "65:00.0", "/sys/x", "net0"
    )


@pytest.mark.parametrize(
    ("value", "pair"),
    [
        (None, None),
        ("", ""),
        ("net0", "net0"),
        (True, "on"),
        (False, "off"),
        (5, "5"),
        (Number("5.0"), "5.0"),
        ([], None),
    ],
    ids=str,
)
def test_a_scalar_is_spelled_as_qemu_up_to_9_1_spells_it(value: Value, pair: str | None) -> None:
    assert new_device("vfio-pci", {"failover_pair_id": value}).failover_pair_id == pair


@pytest.mark.parametrize("value", [True, "on", "yes", "true", "y"])
@pytest.mark.parametrize("name", ["enable-migration", "x-enable-migration"])
def test_migration_may_be_forced_on_under_two_names(name: str, value: Value) -> None:
    assert new_device("vfio-pci", {name: value}).migration_forced


@pytest.mark.parametrize("value", [None, False, "off", "auto", "1", []], ids=str)
def test_anything_else_forces_no_migration(value: Value) -> None:
    assert not new_device("vfio-pci", {"enable-migration": value}).migration_forced


@pytest.mark.parametrize("identity", [None, "", 5, []], ids=str)
def test_a_device_without_an_id_is_named_by_its_type(identity: Value) -> None:
    device = new_device("vfio-ap", {"id": identity})
    assert (device.id, device.label) == (None, "a new vfio-ap")
