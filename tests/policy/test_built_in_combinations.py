"""The rows: every one refuses its devices with its setting, at each of its moments, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qmpguard.policy.built_in_combinations import BUILT_IN
from qmpguard.policy.combination import DEVICE, At, Capability, Combination, Parameter
from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import AddDevice, Operation, StartMigration
from qmpguard.policy.policy import Mode, Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless
from qmpguard.policy.rules import documentation, rules
from qmpguard.policy.verdict import Verdict

#: rows as a configuration would add them
OWN = (
    Combination(
        "site-capability", ("virtio-gpu*", "vfio-pci"), Capability("multifd"), frozenset(At), f"{DEVICE} breaks"
    ),
    Combination("site-parameter", None, Parameter("mode", "cpr-reboot"), frozenset(At), "no reboot", "unplug it first"),
    Combination("site-switch", ("nvme",), Parameter("direct-io", "on"), frozenset({At.SET, At.PLUG}), "no"),
    Combination("site-start", None, Capability("multifd"), frozenset({At.START}), "no", standard=Mode.WARN),
)
ROWS = (*BUILT_IN, *OWN)
#: what can be done to a machine, by moment
STARTS = {
    At.START: (Start.OUTGOING, Start.INCOMING, Start.POSTCOPY),
    At.SNAPSHOT: (Start.SAVE, Start.LOAD),
}


def device_of(row: Combination) -> Device:
    driver = "vfio-pci" if row.types is None else row.types[0].replace("*", "-pci")
    return Device("/machine/peripheral/d0", driver, "d0")


def machine_of(row: Combination, *, plugged: bool, lit: bool) -> Machine:
    device, setting = device_of(row), row.setting
    vfio = row.types is None
    parameters = {setting.name: setting.value} if isinstance(setting, Parameter) and lit else {}
    return Machine.of(
        capabilities=[setting.name] if isinstance(setting, Capability) and lit else [],
        devices=[device] if vfio and plugged else [],
        others=[device] if not vfio and plugged else [],
        parameters=parameters,
    )


def setting_it(row: Combination) -> list[tuple[str, dict[str, Any]]]:
    """The requests that switch a row's setting on, in every spelling."""
    setting = row.setting
    if isinstance(setting, Parameter):
        line = f"migrate_set_parameter {setting.name} {setting.value}"
        return [
            ("migrate-set-parameters", {setting.name: setting.value}),
            ("human-monitor-command", {"command-line": line}),
        ]
    on = {"capability": setting.name, "state": True}
    return [
        ("migrate-set-capabilities", {"capabilities": [on]}),
        ("migrate-set-parameters", {setting.name: True}),
        ("human-monitor-command", {"command-line": f"migrate_set_capability {setting.name} on"}),
        ("human-monitor-command", {"command-line": f"migrate_set_parameter {setting.name} on"}),
    ]


def only(row: Combination) -> Policy:
    """A policy in which no other rule is on."""
    every = Policy(combinations=OWN)
    return replace(every, rules={rule.id: Mode.OFF for rule in rules(every) if rule.id != row.id})


def found(verdict: Verdict) -> list[str]:
    return [finding.rule for finding in verdict.findings]


def operation(command: str, arguments: dict[str, Any], policy: Policy) -> Operation:
    reading: Any = read(command, arguments, policy)
    assert not isinstance(reading, Harmless)
    assert hasattr(reading, "after")
    return reading  # type: ignore[no-any-return]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_judged_where_its_setting_is_switched_on(row: Combination) -> None:
    policy = only(row)
    for command, arguments in setting_it(row) if At.SET in row.at else ():
        reading = operation(command, arguments, policy)
        assert found(judge(reading, machine_of(row, plugged=True, lit=False), policy)) == [row.id], command
        assert found(judge(reading, machine_of(row, plugged=False, lit=False), policy)) == []
        assert found(judge(reading, machine_of(row, plugged=True, lit=True), policy)) == []  # nothing gets worse


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_judged_where_its_device_is_plugged(row: Combination) -> None:
    policy, driver = only(row), device_of(row).driver
    for request in (
        ("device_add", {"driver": driver, "id": "d0"}),
        ("human-monitor-command", {"command-line": f"device_add {driver},id=d0"}),
    ):
        if At.PLUG not in row.at:
            continue
        reading = operation(*request, policy)
        assert isinstance(reading, AddDevice)
        assert found(judge(reading, machine_of(row, plugged=False, lit=True), policy)) == [row.id]
        assert found(judge(reading, machine_of(row, plugged=False, lit=False), policy)) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("start", list(Start))
def test_a_row_is_judged_at_a_start_only_if_it_says_so(row: Combination, start: Start) -> None:
    at = next(at for at, starts in STARTS.items() if start in starts)
    verdict = judge(StartMigration(start), machine_of(row, plugged=True, lit=True), only(row))
    # a background snapshot has no postcopy phase: QEMU refuses that in its own words
    judged = at in row.at and (start is not Start.POSTCOPY or row.setting.name != "background-snapshot")
    assert found(verdict) == ([row.id] if judged else [])
    if not judged:  # and then nothing is asked for it
        assert row.fails(Machine(Facts(), starting=start), Policy()) is None
    for plugged, lit in ((True, False), (False, True)):
        assert found(judge(StartMigration(start), machine_of(row, plugged=plugged, lit=lit), only(row))) == []


def test_a_row_that_says_set_asks_for_the_setting_before_the_devices() -> None:
    capabilities_known = Machine(Facts(capabilities=frozenset()), starting=Start.OUTGOING)
    assert all(row.fails(capabilities_known, Policy()) is None for row in BUILT_IN)


def test_the_message_begins_with_the_device_unless_it_names_it() -> None:
    both = [machine_of(row, plugged=True, lit=True) for row in OWN[:2]]
    first, second = (judge(StartMigration(Start.OUTGOING), m, Policy(combinations=OWN)).refusal for m in both)
    assert first is not None
    assert first.text() == (
        "d0 breaks (qmpguard: rule site-capability, device 'd0', capability multifd is on; "
        "turn it off with migrate-set-capabilities, or unplug the device)"
    )
    assert second is not None
    assert second.text() == (
        "d0: no reboot (qmpguard: rule site-parameter, device 'd0', parameter mode is cpr-reboot; unplug it first)"
    )


def test_every_row_is_a_rule_that_explains_itself() -> None:
    for row in BUILT_IN:
        assert documentation()[row.id] == row.rule.documentation
        assert row.text
    assert OWN[0].rule.summary == "Refuse `virtio-gpu*`, `vfio-pci` together with `multifd`."
    assert OWN[1].rule.summary == "Refuse VFIO devices together with `mode` = `cpr-reboot`."


def test_a_setting_that_no_row_looks_at_when_it_is_set_is_not_judged() -> None:
    policy = Policy(combinations=(OWN[3],))
    for request in setting_it(OWN[3]):
        assert isinstance(read(*request, policy), Harmless)
