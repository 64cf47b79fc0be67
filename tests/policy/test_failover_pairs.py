"""Failover pairs: which primaries pass postcopy, with a warning, and which are refused like any VFIO device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Finding
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable

GPU = Device("/machine/peripheral/gpu9", "vfio-pci", "gpu9")
PRIMARY = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")
SPARE = replace(PRIMARY, path="/machine/peripheral/gpu1", id="gpu1")


def capability(name: str) -> tuple[str, dict[str, Any]]:
    return "migrate-set-capabilities", {"capabilities": [{"capability": name, "state": True}]}


def plug(identity: str) -> tuple[str, dict[str, Any]]:
    return "device_add", {"driver": "vfio-pci", "id": identity}


ON, MIGRATE = capability("postcopy-ram"), ("migrate", {"uri": "tcp:host:4444"})


def findings(
    command: str, arguments: dict[str, Any], machine: Machine, policy: Policy | None = None
) -> tuple[Finding, ...]:
    operation = read(command, arguments, policy or Policy())
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    return judge(operation, machine, policy or Policy()).findings


@pytest.mark.parametrize(
    ("devices", "hidden", "runstate", "passes"),
    [
        ([PRIMARY], [], "running", True),
        ([PRIMARY], [], "paused", True),
        ([PRIMARY, SPARE], [], "running", False),  # QEMU unplugs one of two primaries
        ([PRIMARY], [SPARE], "running", False),
        ([PRIMARY, replace(SPARE, failover_pair_id="net1")], [], "running", False),  # one is matched, one is not
        ([], [PRIMARY], "inmigrate", True),  # QEMU hides it until the guest's state arrives
        ([PRIMARY], [], "inmigrate", False),  # it has pinned the RAM
        ([PRIMARY], [], "prelaunch", False),  # no guest has negotiated anything
        ([], [PRIMARY], "running", False),  # the guest has not negotiated failover
        ([GPU, PRIMARY], [], "running", False),
        ([replace(PRIMARY, failover_pair_id="net1")], [], "running", False),  # no such standby
        ([replace(PRIMARY, driver="vfio-user-pci")], [], "running", False),  # not seen on a real one
    ],
)
@pytest.mark.parametrize("request_", [ON, MIGRATE, ("migrate-incoming", {"uri": "unix:/x"})], ids=str)
def test_only_a_matched_failover_pair_passes_postcopy_and_with_a_warning(
    request_: tuple[str, dict[str, Any]], devices: list[Device], hidden: list[Device], runstate: str, *, passes: bool
) -> None:
    lit = [] if request_[0] == "migrate-set-capabilities" else ["postcopy-ram"]
    machine = Machine.of(devices=devices, hidden=hidden, standbys=["net0"], runstate=runstate, capabilities=lit)
    modes = {f.rule: f.mode for f in findings(*request_, machine)}
    assert modes["vfio-postcopy"] is (Mode.WARN if passes else Mode.ENFORCE)
    strict = {f.rule: f.mode for f in findings(*request_, machine, Policy(profile=Profile.STRICT))}
    assert strict["vfio-postcopy"] is Mode.ENFORCE


@pytest.mark.parametrize("negotiated", [[], ["net1"]])
@pytest.mark.parametrize("request_", [ON, MIGRATE], ids=str)
def test_a_primary_that_shows_itself_without_a_negotiation_is_refused(
    request_: tuple[str, dict[str, Any]], negotiated: list[str]
) -> None:
    """It was plugged in before its standby: QEMU hides it never, and does not unplug it for a migration."""
    lit = [] if request_[0] == "migrate-set-capabilities" else ["postcopy-ram"]
    machine = Machine.of(devices=[PRIMARY], standbys=["net0"], negotiated=negotiated, capabilities=lit)
    assert {f.rule: f.mode for f in findings(*request_, machine)}["vfio-postcopy"] is Mode.ENFORCE


def test_the_warning_says_what_comes_of_it() -> None:
    (finding,) = findings(*ON, Machine.of(devices=[PRIMARY], standbys=["net0"]))
    assert "the guest goes on with its standby" in finding.text()
    assert "plug the primary in with device_add" in finding.text()


@pytest.mark.parametrize("name", ["background-snapshot", "x-colo"])
def test_a_pair_passes_nothing_else_and_is_told_what_lets_it_through(name: str) -> None:
    (finding,) = findings(*capability(name), Machine.of(devices=[PRIMARY], standbys=["net0"]))
    assert finding.mode is Mode.ENFORCE
    assert "; allow_failover_primary lets failover pairs through, at your own risk)" in finding.text()
    (alone,) = findings(*capability(name), Machine.of(devices=[PRIMARY]))
    assert "allow_failover_primary" not in alone.text()


def test_a_warning_of_a_pair_hides_no_device_that_comes_later() -> None:
    lit = Machine.of(devices=[PRIMARY], standbys=["net0"], capabilities=["postcopy-ram"])
    (finding,) = findings(*plug("hp0"), lit)
    assert (finding.rule, finding.mode) == ("vfio-postcopy", Mode.ENFORCE)


def test_a_refusal_of_a_pair_hides_no_device_that_comes_later() -> None:
    """A destination after postcopy: QEMU could not plug the primary in, so it is hidden still."""
    arrived = Machine.of(
        hidden=[PRIMARY], standbys=["net0"], capabilities=["postcopy-ram"], migration="postcopy-active"
    )
    (finding,) = findings(*plug("hp0"), arrived)
    assert (finding.rule, finding.mode) == ("vfio-postcopy", Mode.ENFORCE)
