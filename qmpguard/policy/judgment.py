"""The judgment: the rules, held against a machine before and after an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qmpguard.policy.crashes import qemu_crash
from qmpguard.policy.operations import (
    CallUnlisted,
    ChangeMonitor,
    EndQemu,
    OpenMonitor,
    RunProgram,
    SetProperty,
    TurnAgainstMonitor,
    UseAddress,
    WriteHmp,
)
from qmpguard.policy.plugin import PlugInFailed
from qmpguard.policy.policy import Mode, Policy
from qmpguard.policy.qemu_check import qemu_check
from qmpguard.policy.rules import (
    hmp_write,
    monitor_object,
    new_monitor,
    own_socket,
    rules,
    runs_program,
    unknown_command,
    unverified_mode,
    vfio_property,
)
from qmpguard.policy.verdict import Finding, Problem, Verdict, unverified

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Rule

#: the operations that one rule alone looks at
_SOLE: Mapping[type, Callable[[Machine, Policy], Problem | None]] = {
    OpenMonitor: new_monitor,
    ChangeMonitor: monitor_object,
    UseAddress: own_socket,
    TurnAgainstMonitor: own_socket,
    SetProperty: vfio_property,
    WriteHmp: hmp_write,
    RunProgram: runs_program,
    CallUnlisted: unknown_command,
    EndQemu: qemu_crash,
}


def _looking_at(kind: type, policy: Policy) -> tuple[Rule, ...]:
    """Return the rules that can fail after a kind of operation where they did not fail before."""
    sole = _SOLE.get(kind)
    return rules(policy) if sole is None else tuple(rule for rule in rules(policy) if rule.fails is sole)


def concerns(kind: type, policy: Policy) -> bool:
    """Say whether any rule that is not off looks at a kind of operation; where none does, there is nothing to judge."""
    return kind not in _SOLE or any(rule.mode(policy) is not Mode.OFF for rule in _looking_at(kind, policy))


def judge(operation: Operation, before: Machine, policy: Policy) -> Verdict:
    """Return the verdict on an operation.

    A rule counts when it fails after the operation and either did not fail before or the operation starts a migration.
    Raises `Unknown` where a rule needs a fact that was not asked yet.
    """
    after = operation.after(before)
    findings: list[Finding] = []
    for rule in _looking_at(type(operation), policy):
        mode = rule.mode(policy)
        try:
            if mode is Mode.OFF or (problem := rule.fails(after, policy)) is None:
                continue
            if after.starting is None and rule.fails(before, policy) is not None:
                continue
        except PlugInFailed as failure:  # fail closed, unless the plug-in's own mode would not
            findings += unverified(str(failure), Mode.weaker(mode, unverified_mode(policy))).findings
            continue
        if problem.advisory or _is_left_over(problem, operation, before, policy):
            mode = Mode.WARN
        findings.append(Finding(rule.id, mode, problem))
    return _with_native(Verdict(tuple(findings)), operation, before)


def _is_left_over(problem: Problem, operation: Operation, before: Machine, policy: Policy) -> bool:
    """Say whether a capability is only what the last migration left on; in profile strict nothing is excused by that.

    Somebody who looks for a way around could have a snapshot loaded that begins as a postcopy migration does.
    """
    if problem.capability is None or policy.strict:
        return False
    return operation.meets_a_leftover(before, problem.capability)


def _with_native(verdict: Verdict, operation: Operation, before: Machine) -> Verdict:
    """Add what QEMU itself would do about the finding that weighs most."""
    if not verdict.findings:
        return verdict
    return Verdict(verdict.findings, qemu_check(operation, before, verdict.refusal or verdict.findings[0]))
