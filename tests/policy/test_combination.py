"""One row: which devices it names, when it is looked at, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qmpguard.policy.combination import DEVICE, Capability, Combination, Moment, Parameter, moment_of
from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Profile
from qmpguard.policy.operations import AddDevice
from qmpguard.policy.policy import Policy
from qmpguard.wire.json import Number

GPU = Device("/machine/peripheral/g", "vfio-pci", "g")
NIC = Device("/machine/peripheral/n", "virtio-net-pci", "n")
NODE = Device("node", "nvme", "node")
#: a row of a site's own, and one that speaks of VFIO devices
OWN = Combination("own", ("virtio-net*",), Capability("multifd"), frozenset(Moment), f"{DEVICE} breaks")
VFIO = Combination("vfio", None, Parameter("mode", "cpr-reboot"), frozenset(Moment), "no reboot")


@pytest.mark.parametrize(
    ("machine", "at"),
    [
        (Machine(), None),
        (Machine(setting=True), Moment.SET),
        (Machine(added=(GPU,)), Moment.PLUG),
        (Machine(added_others=(NIC,)), Moment.PLUG),
        (Machine(opened=(NODE,)), Moment.PLUG),
        (Machine(starting=Start.OUTGOING), Moment.START),
        (Machine(starting=Start.INCOMING), Moment.START),
        (Machine(starting=Start.POSTCOPY), Moment.START),
        (Machine(starting=Start.SAVE), Moment.SNAPSHOT),
        (Machine(starting=Start.LOAD), Moment.SNAPSHOT),
    ],
)
def test_the_moment_is_what_was_just_done(machine: Machine, at: Moment | None) -> None:
    assert moment_of(machine) is at


@pytest.mark.parametrize(
    ("row", "driver", "named"),
    [
        (OWN, "virtio-net-pci", True),
        (OWN, "Virtio-net-pci", False),
        (OWN, "e1000e", False),
        (VFIO, "vfio-pci", False),  # VFIO devices are found by `is_vfio`, with the types of the configuration
    ],
)
def test_a_row_names_devices_by_globs(row: Combination, driver: str, *, named: bool) -> None:
    assert row.matches(driver) is named


def test_devices_are_named_by_their_places_and_the_message_begins_with_the_first() -> None:
    second = Device("/machine/peripheral/o", "virtio-net-pci", "o")
    problem = OWN.fails(Machine.of(capabilities=["multifd"], others=[second, NIC]), Policy())
    assert problem is not None
    assert (problem.refusal, problem.devices) == ("n breaks", ("n", "o"))
    assert problem.capability == "multifd"


def test_a_device_without_the_setting_is_no_problem_nor_the_setting_without_a_device() -> None:
    assert OWN.fails(Machine.of(others=[NIC]), Policy()) is None
    assert OWN.fails(Machine.of(capabilities=["multifd"], devices=[GPU]), Policy()) is None


def test_a_row_of_vfio_devices_counts_block_nodes_too() -> None:
    problem = VFIO.fails(Machine.of(parameters={"mode": "cpr-reboot"}, devices=[GPU], blocks=[NODE]), Policy())
    assert problem is not None
    assert (problem.devices, problem.parameter) == (("g", "node"), "mode is cpr-reboot")


def test_a_failover_pair_passes_where_the_policy_says_so() -> None:
    primary = replace(GPU, failover_pair_id="n")
    machine = Machine.of(parameters={"mode": "cpr-reboot"}, devices=[primary], standbys=["n"])
    assert VFIO.fails(machine, Policy()) is not None
    assert VFIO.fails(machine, Policy(allow_failover_primary=True)) is None


@pytest.mark.parametrize(("profile", "fails"), [(Profile.STANDARD, False), (Profile.STRICT, True)])
def test_a_snapshot_that_is_loaded_may_begin_as_postcopy_does(profile: Profile, *, fails: bool) -> None:
    row = replace(VFIO, setting=Capability("postcopy-ram"), at=frozenset({Moment.START}))
    machine = replace(Machine.of(capabilities=["postcopy-ram"], devices=[GPU]), starting=Start.LOAD)
    assert (row.fails(machine, Policy(profile=profile)) is not None) is fails


def test_what_helps_fits_the_moment() -> None:
    machine = Machine.of(parameters={"mode": "cpr-reboot"}, devices=[GPU])
    words = {s: VFIO.fails(replace(machine, starting=s), Policy()) for s in (Start.OUTGOING, Start.POSTCOPY)}
    assert [problem.fix if problem else "" for problem in words.values()] == [
        "set it otherwise with migrate-set-parameters, or unplug the device",
        "let the migration go on as precopy, or cancel it with migrate_cancel",
    ]


@pytest.mark.parametrize(
    ("answer", "value", "equal"),
    [
        ("cpr-exec", "cpr-exec", True),
        ("normal", "cpr-exec", False),
        (True, "on", True),
        ("on", "true", True),
        (False, "true", False),
        (4, "4", True),
        (Number("2.5"), "2.5", True),
        (None, "4", False),
        ([], "4", False),
    ],
)
def test_a_parameter_is_compared_as_text(answer: Any, value: str, equal: bool) -> None:
    assert Parameter("p", value).is_on(Machine.of(parameters={"p": answer})) == equal


@pytest.mark.parametrize(("runstate", "waits"), [("inmigrate", True), ("running", False)])
def test_where_a_migration_is_to_come_in_the_device_can_be_plugged_in_behind_it(runstate: str, waits: bool) -> None:
    machine = Machine.of(capabilities=["postcopy-ram"], runstate=runstate)
    refusal = judge(AddDevice(Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0")), machine, Policy()).refusal
    assert refusal is not None
    assert ("plug the device in after the migration has completed" in refusal.problem.fix) is waits
