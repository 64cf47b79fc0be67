"""The machine: QEMU's facts with what an operation adds; what was not asked is never taken for absent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Fact, Facts, Unknown
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Migration
from qmpguard.policy.netdevs import netdev

if TYPE_CHECKING:
    from collections.abc import Callable

GPU = Device("/machine/peripheral/g", "vfio-pci", "g")
NIC = Device("/machine/peripheral/n", "virtio-net-pci", "n")
PRIMARY = Device("/machine/peripheral/p", "vfio-pci", "p", failover_pair_id="n")
NODE = Device("node", "nvme", "node")


@pytest.mark.parametrize(
    ("read", "fact"),
    [
        (lambda machine: machine.capabilities, Fact.CAPABILITIES),
        (lambda machine: machine.has("multifd"), Fact.CAPABILITIES),
        (lambda machine: machine.devices, Fact.DEVICES),
        (lambda machine: machine.detailed, Fact.DEVICES),
        (lambda machine: machine.others, Fact.DEVICES),
        (lambda machine: machine.standbys, Fact.DEVICES),
        (lambda machine: machine.blocks, Fact.BLOCKS),
        (lambda machine: machine.sockets, Fact.SOCKETS),
        (lambda machine: machine.runstate, Fact.RUNSTATE),
        (lambda machine: machine.migration, Fact.MIGRATION),
        (lambda machine: machine.changed_type, Fact.TYPE),
        (lambda machine: machine.commands, Fact.COMMANDS),
        (lambda machine: machine.parameter("mode"), Fact.PARAMETERS),
        (lambda machine: machine.shared_memory, Fact.SHARED),
    ],
)
def test_what_was_not_asked_is_named(read: Callable[[Machine], object], fact: Fact) -> None:
    with pytest.raises(Unknown) as caught:
        read(Machine())
    assert caught.value.facts == (fact,)
    read(Machine.of())


def test_details_and_standbys_are_asked_for_after_the_devices() -> None:
    machine = Machine(Facts(devices=(GPU,)))
    with pytest.raises(Unknown, match="details"):
        _ = machine.detailed
    with pytest.raises(Unknown, match="standbys"):
        _ = machine.standbys


def test_a_device_is_asked_only_for_the_properties_that_are_read() -> None:
    user = Device("/machine/peripheral/u", "vfio-user-pci", "u")
    new = Device("/machine/peripheral/new", "vfio-pci", "new", host="01:00.0")
    machine = Machine(Facts(devices=(GPU, user))).with_device(new)
    with pytest.raises(Unknown) as caught:
        machine.properties_of(machine.devices, "failover_pair_id")
    assert caught.value.properties == ((GPU.path, "failover_pair_id"), (user.path, "failover_pair_id"))
    assert (machine.name_of(user), machine.name_of(new)) == ("u", "0000:01:00.0"), "neither is asked for its address"
    known: dict[tuple[str, str], str | None] = {}
    for name, value, shown in (("sysfsdev", None, None), ("host", "0000:02:00.0", "0000:02:00.0")):
        with pytest.raises(Unknown) as caught:
            replace(machine, facts=replace(machine.facts, properties=known)).name_of(GPU)
        assert caught.value.properties == ((GPU.path, name),)
        known[GPU.path, name] = value
        if shown:
            assert replace(machine, facts=replace(machine.facts, properties=known)).name_of(GPU) == shown
    known[GPU.path, "sysfsdev"] = "/sys/bus/mdev/devices/an-uuid/"
    assert replace(machine, facts=replace(machine.facts, properties=known)).name_of(GPU) == "an-uuid"


def test_details_that_were_all_queried_are_used() -> None:
    detailed = replace(GPU, host="03:00.0", failover_pair_id="net")
    machine = Machine(Facts(devices=(GPU,), details=(detailed,), standbys=frozenset({"net"})))
    assert machine.name_of(GPU) == "0000:03:00.0"
    assert machine.has_standby(GPU)


def test_a_hidden_primary_counts_only_where_its_standby_can_be_known() -> None:
    hidden = Facts(devices=(GPU,), hidden=(PRIMARY,))
    with pytest.raises(Unknown, match="standbys"):
        _ = Machine(hidden).devices
    machine = Machine(replace(hidden, standbys=frozenset({"n"}), properties={(GPU.path, "failover_pair_id"): None}))
    assert machine.devices == (GPU, PRIMARY)
    assert machine.has_standby(PRIMARY)
    assert not machine.has_standby(GPU)


def test_capabilities_are_folded_as_qemu_folds_them() -> None:
    machine = Machine.of(capabilities=["xbzrle", "multifd"])
    states = [("multifd", False), ("postcopy-ram", True), ("multifd", True), ("xbzrle", False)]
    after = machine.with_capabilities(states)
    assert after.capabilities == {"multifd", "postcopy-ram"}
    assert after.with_capabilities([("postcopy-ram", False)]).capabilities == {"multifd"}


def test_what_the_operation_says_is_not_asked_of_qemu() -> None:
    machine = Machine().with_capabilities([("postcopy-ram", True), ("multifd", False)])
    assert machine.has("postcopy-ram")
    assert not machine.has("multifd")
    assert Machine().with_parameters([("mode", "normal"), ("mode", "cpr-reboot")]).parameter("mode") == "cpr-reboot"


def test_new_devices_come_last() -> None:
    machine = Machine.of(devices=[GPU], others=[NIC], blocks=[NODE])
    assert machine.with_device(PRIMARY).devices == machine.with_device(PRIMARY).detailed == (GPU, PRIMARY)
    assert machine.with_other(PRIMARY).others == (NIC, PRIMARY)
    assert machine.with_block(PRIMARY).blocks == (NODE, PRIMARY)
    assert machine.devices == (GPU,), "a machine is a value: the first one stays as it was"


def test_back_ends_are_named_with_their_devices_and_new_ones_come_last() -> None:
    vdpa, new = netdev("vhost-vdpa", "n"), netdev("vhost-user", "m")
    machine = Machine.of(netdevs=[vdpa], nics=[("n", "net0")]).with_netdev(new)
    assert [device.label for device in machine.netdevs] == ["netdev n of net0", "m"]
    assert Machine().with_netdev(new).netdevs == (new,), "without a remembered one nothing is asked"
    with pytest.raises(Unknown, match=Fact.DEVICES.value):
        _ = Machine(Facts(netdevs=(vdpa,))).netdevs
    with pytest.raises(Unknown, match=Fact.NICS.value):
        _ = Machine(Facts(netdevs=(vdpa,), others=())).netdevs


def test_the_sockets_of_the_configuration_count_with_those_of_qemu() -> None:
    facts = replace(Machine.of(sockets=["serial.sock"]).facts, own=frozenset({"qmp.sock"}))
    assert Machine(facts).sockets == {"serial.sock", "qmp.sock"}


@pytest.mark.parametrize(
    ("left_on", "runstate", "status", "over"),
    [
        (["postcopy-ram"], "running", "completed", True),
        (["postcopy-ram"], "running", "failed", True),
        (["postcopy-ram"], "running", "active", False),
        (["postcopy-ram"], "inmigrate", "completed", False),
        ([], "running", "completed", False),
        (["multifd"], "running", "completed", False),
    ],
)
def test_a_capability_is_left_over_when_its_migration_is_behind_us(
    left_on: list[str], runstate: str, status: str, *, over: bool
) -> None:
    machine = Machine.of(left_on=left_on, runstate=runstate, migration=status)
    assert machine.is_stale("postcopy-ram") is over


@pytest.mark.parametrize(
    ("version", "unknown", "older"),
    [
        ((8, 1, 4), False, True),
        ((8, 2), False, False),
        ((10, 0), True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_a_version_that_nobody_told_is_as_old_as_the_caller_says(
    version: tuple[int, ...] | None, *, unknown: bool, older: bool
) -> None:
    assert Machine.of(version=version).is_older_than((8, 2), unknown=unknown) is older


def test_everything_is_known_of_a_machine_that_is_made_for_a_table() -> None:
    machine = Machine.of(migration="active", blockers=["one"], parameters={"mode": "normal"}, shared_memory=["m0"])
    assert machine.migration == Migration("active", ("one",))
    assert (machine.parameter("mode"), machine.parameter("none")) == ("normal", None)
    assert machine.shared_memory == ("m0",)
