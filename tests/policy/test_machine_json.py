"""A machine on paper: written, read back, and changed by hand."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.machine import Change, Machine
from qmpguard.policy.machine_json import (
    facts_from_json,
    facts_to_json,
    memory_from_json,
    memory_to_json,
    policy_from_json,
    policy_to_json,
    with_type,
)
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.operations import SetProperty, StartMigration
from qmpguard.policy.policy import Policy

GPU = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", "0000:65:00.0", "/sys/x", "net0")
ANONYMOUS = Device("/machine/peripheral-anon/device[0]", "vfio-ap")
NIC = Device("/machine/peripheral/net0", "virtio-net-pci", "net0")
NODE = Device("block node 'n0'", "nvme", "n0", host="0000:01:00.0")
WHOLE = Machine.of(
    capabilities=["postcopy-ram", "events"],
    devices=[ANONYMOUS, GPU],
    standbys=["net0"],
    runstate="paused",
    migration="failed",
    blockers=["the disk"],
    blocks=[NODE],
    others=[NIC],
    netdevs=[netdev("vhost-vdpa", "n")],
).facts


def test_what_is_drawn_is_read_back() -> None:
    paper = json.loads(json.dumps(facts_to_json(WHOLE)))
    assert paper["devices"][0] == {"path": ANONYMOUS.path, "driver": "vfio-ap"}
    again = facts_from_json(paper)
    assert again == Facts(
        capabilities=WHOLE.capabilities,
        devices=(ANONYMOUS, GPU),
        others=(NIC,),
        details=(ANONYMOUS, GPU),
        standbys=WHOLE.standbys,
        runstate="paused",
        migration=WHOLE.migration,
        blocks=(NODE,),
        netdevs=(netdev("vhost-vdpa", "n"),),
        nics=(),
    )
    assert facts_to_json(again) == facts_to_json(WHOLE)


def test_what_was_not_asked_is_left_out_and_stays_unknown() -> None:
    assert facts_to_json(Facts()) == {}
    assert facts_from_json({}) == Facts()


def test_a_device_written_by_hand_needs_little() -> None:
    facts = facts_from_json({"devices": [{"id": "g", "driver": "vfio-pci"}], "migration": {}})
    assert facts.details == (Device("/machine/peripheral/g", "vfio-pci", "g"),)
    assert facts.migration is not None
    assert facts.migration.status == "none"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "a machine is an object"),
        ({"runstat": "x"}, "a machine has no 'runstat'"),
        ({"runstate": 5}, "'runstate' is a string"),
        ({"capabilities": "postcopy-ram"}, "'capabilities' is a list"),
        ({"capabilities": [1]}, "'capabilities' is a list of strings"),
        ({"devices": [5]}, "a device is an object"),
        ({"devices": [{"driver": "vfio-pci"}]}, "a device needs"),
        ({"devices": [{"id": "g"}]}, "a device needs"),
        ({"devices": [{"id": "g", "driver": "x", "bus": "y"}]}, "a device has no 'bus'"),
        ({"migration": []}, "a migration is an object"),
    ],
)
def test_what_cannot_be_read_is_said(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="^" + reason.replace("[", r"\[")):
        facts_from_json(value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("gpu0", "vfio-pci"), ("/machine/peripheral/gpu0", "vfio-pci"), ("peripheral/gpu0", "vfio-pci"), ("u0", "")],
)
def test_the_object_of_a_property_is_found_by_a_partial_path_too(path: str, kind: str) -> None:
    assert with_type(WHOLE, SetProperty(Change(path, "realized"))).type == kind


def test_other_operations_have_no_such_object() -> None:
    assert with_type(Facts(), StartMigration(Start.OUTGOING)) == Facts()
    assert with_type(Facts(), SetProperty(Change("x", "realized"))) == Facts()


WARNING = Policy(mode=Mode.WARN, profile=Profile.STRICT, rules={"vfio-state-lost": Mode.OFF})
POLICIES = [
    Policy(),
    WARNING,
    Policy(extra_types=frozenset({"a", "b"}), allow_failover_primary=True, rules={"vfio-postcopy": Mode.WARN}),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_on_paper_is_the_same_policy(policy: Policy) -> None:
    assert policy_from_json(json.loads(json.dumps(policy_to_json(policy)))) == policy


def test_a_memory_on_paper_is_the_same_memory() -> None:
    primary = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")
    memory = Facts(hidden=(primary,), left_on=frozenset({"postcopy-ram"}), confirmed=frozenset({"vfio-postcopy"}))
    memory = replace(memory, netdevs=(netdev("vhost-vdpa", "n"),), negotiated=frozenset({"net0"}))
    members = json.loads(json.dumps(memory_to_json(memory)))
    assert memory_from_json(members) == memory
    del members["negotiated"]  # of a guard of before 2026-11-26
    assert memory_from_json(members) == replace(memory, negotiated=frozenset())


@pytest.mark.parametrize(
    "value",
    [None, {"mode": "x"}, {"rules": 1, "mode": "off", "profile": "strict"}, {**policy_to_json(Policy()), "new": 1}],
)
def test_what_is_no_policy_is_said(value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        policy_from_json(value)


def test_nothing_of_a_policy_is_left_out() -> None:
    """Of rules that are added the ids are told, and whoever reads them says that they are not judged."""
    told = {field.name for field in fields(Policy)} - {"combinations", "plugins"} | {"added"}
    assert told == policy_to_json(Policy()).keys()
