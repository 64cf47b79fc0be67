"""The judgment: which failures of rules count, in which mode, and what QEMU itself would do about them."""

from __future__ import annotations

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts, Unknown
from qmpguard.policy.judgment import concerns, judge
from qmpguard.policy.machine import Change, Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.operations import (
    AddDevice,
    OpenMonitor,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    WriteHmp,
)
from qmpguard.policy.plugin import PlugIn
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Problem
from qmpguard.policy.qemu_check import UNKNOWN_CHECK
from qmpguard.policy.rules import RULES
from qmpguard.policy.verdict import Verdict

GPU = Device("/machine/peripheral/g", "vfio-pci", "g")
POSTCOPY = SetCapabilities((("postcopy-ram", True),))
STRICT = Policy(profile=Profile.STRICT)


def found(verdict: Verdict) -> list[tuple[str, Mode]]:
    return [(finding.rule, finding.mode) for finding in verdict.findings]


def plug_in(function: object, **modes: Mode) -> Policy:
    rule = PlugIn("own", function).rule  # type: ignore[arg-type]
    return Policy(plugins=(rule,), rules=modes)


def test_what_gets_worse_is_found_and_what_was_bad_before_is_not() -> None:
    assert found(judge(POSTCOPY, Machine.of(devices=[GPU]), Policy())) == [("vfio-postcopy", Mode.ENFORCE)]
    assert found(judge(POSTCOPY, Machine.of(devices=[GPU], capabilities=["postcopy-ram"]), Policy())) == []
    assert found(judge(POSTCOPY, Machine.of(), Policy())) == []


def test_at_a_start_whatever_is_bad_is_found_however_long_it_has_been() -> None:
    machine = Machine.of(devices=[GPU], capabilities=["postcopy-ram"])
    assert ("vfio-postcopy", Mode.ENFORCE) in found(judge(StartMigration(Start.OUTGOING), machine, Policy()))


def test_a_rule_that_is_off_asks_nothing() -> None:
    off = {rule.id: Mode.OFF for rule in RULES}
    before = Machine(Facts(capabilities=frozenset()))
    assert judge(POSTCOPY, before, Policy(rules=off)).findings == ()
    with pytest.raises(Unknown, match="devices"):
        judge(POSTCOPY, before, Policy(rules={**off, "vfio-postcopy": Mode.WARN}))


@pytest.mark.parametrize(
    ("policy", "mode"),
    [(Policy(), Mode.WARN), (STRICT, Mode.ENFORCE)],
    ids=["standard", "strict"],
)
def test_a_capability_that_was_left_on_excuses_a_device_but_not_in_strict(policy: Policy, mode: Mode) -> None:
    machine = Machine.of(capabilities=["postcopy-ram"], left_on=["postcopy-ram"], migration="completed")
    assert ("vfio-postcopy", mode) in found(judge(AddDevice(GPU), machine, policy))
    assert ("vfio-postcopy", Mode.ENFORCE) in found(
        judge(StartMigration(Start.OUTGOING), machine.with_device(GPU), policy)
    )


def test_advice_never_refuses() -> None:
    def advise(machine: Machine, policy: Policy) -> Problem | None:
        return Problem("it may be slow", "wait", advisory=True) if machine.turned_on else None

    verdict = judge(POSTCOPY, Machine.of(), plug_in(advise))
    assert found(verdict) == [("own", Mode.WARN)]
    assert verdict.refusal is None


@pytest.mark.parametrize(
    ("modes", "mode"),
    [({}, Mode.ENFORCE), ({"own": Mode.WARN}, Mode.WARN), ({"unverified": Mode.WARN}, Mode.WARN)],
)
def test_a_plug_in_that_fails_is_an_unverified_request_in_the_weaker_of_both_modes(
    modes: dict[str, Mode], mode: Mode
) -> None:
    def fail(machine: Machine, policy: Policy) -> Problem | None:
        raise RuntimeError("oops")

    assert found(judge(POSTCOPY, Machine.of(), plug_in(fail, **modes))) == [("unverified", mode)]
    assert judge(POSTCOPY, Machine.of(), plug_in(fail, own=Mode.OFF)).findings == ()


def test_some_operations_are_looked_at_by_one_rule_alone() -> None:
    """They must not ask QEMU for anything: whoever stops a migration cannot wait."""
    assert found(judge(OpenMonitor("gdbserver"), Machine(), Policy())) == [("new-monitor", Mode.ENFORCE)]
    assert found(judge(RunProgram("x"), Machine(), STRICT)) == [("runs-program", Mode.ENFORCE)]
    assert found(judge(WriteHmp("stop"), Machine(), STRICT)) == [("hmp-write", Mode.ENFORCE)]


def test_an_operation_that_no_rule_looks_at_concerns_nobody() -> None:
    assert concerns(StartMigration, Policy(rules={"vfio-postcopy": Mode.OFF}))
    assert concerns(OpenMonitor, Policy())
    assert not concerns(OpenMonitor, Policy(rules={"new-monitor": Mode.OFF}))
    assert not concerns(WriteHmp, Policy())
    assert concerns(WriteHmp, STRICT)


def test_what_qemu_itself_would_do_is_said_of_findings_only() -> None:
    machine = Machine.of(devices=[GPU], version=(10, 0, 0))
    assert judge(POSTCOPY, Machine.of(), Policy()).qemu_check == UNKNOWN_CHECK
    assert judge(POSTCOPY, machine, Policy()).qemu_check != UNKNOWN_CHECK


def test_a_property_is_judged_by_the_type_of_its_object() -> None:
    change = SetProperty(Change("/machine/peripheral/g", "realized"))
    judged = found(judge(change, Machine.of(changed_type="vfio-pci"), Policy()))
    assert [rule for rule, _ in judged] == ["vfio-property"]
    assert found(judge(change, Machine.of(changed_type="e1000e"), Policy())) == []
