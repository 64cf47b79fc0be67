"""The judgment: applies the rules to a machine before and after an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.policy.crash_rule import qemu_crash
from qmpguard.policy.facts import Unknown
from qmpguard.policy.mode import Mode
from qmpguard.policy.monitor_rules import monitor_object, new_monitor, own_socket
from qmpguard.policy.operations import (
    CallUnlisted,
    ChangeMonitor,
    EndQemu,
    OpenMonitor,
    RemoveNetdev,
    RunProgram,
    SetProperty,
    TurnAgainstMonitor,
    UseAddress,
    UseDescriptor,
    WriteHmp,
)
from qmpguard.policy.plugin import PlugInFailed
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Finding, Problem
from qmpguard.policy.qemu_check import qemu_check
from qmpguard.policy.rules import (
    hmp_write,
    rules,
    runs_program,
    unknown_command,
    unverified_mode,
    vfio_property,
)
from qmpguard.policy.verdict import Verdict, unverified

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Rule

#: the operations that only these rules judge
_SOLE_RULES: Mapping[type, tuple[Callable[[Machine, Policy], Problem | None], ...]] = {
    OpenMonitor: (new_monitor,),
    ChangeMonitor: (monitor_object,),
    UseAddress: (own_socket,),
    UseDescriptor: (own_socket, hmp_write, runs_program),
    TurnAgainstMonitor: (own_socket,),
    SetProperty: (vfio_property,),
    WriteHmp: (hmp_write,),
    RemoveNetdev: (hmp_write,),
    RunProgram: (runs_program,),
    CallUnlisted: (unknown_command,),
    EndQemu: (qemu_crash,),
}

#: the operations that the guard remembers when QEMU has executed them, whether or not a rule judges them
_REMEMBERED = frozenset({RemoveNetdev})


def _rules_for(kind: type, policy: Policy) -> tuple[Rule, ...]:
    """Return the rules that a kind of operation can newly violate."""
    only = _SOLE_RULES.get(kind)
    return rules(policy) if only is None else tuple(rule for rule in rules(policy) if rule.fails in only)


def concerns(kind: type, policy: Policy) -> bool:
    """Say whether any rule that is not off judges a kind of operation, or the guard remembers it."""
    if kind in _REMEMBERED or kind not in _SOLE_RULES:
        return True
    return any(rule.mode(policy) is not Mode.OFF for rule in _rules_for(kind, policy))


def judge(operation: Operation, before: Machine, policy: Policy) -> Verdict:
    """Return the verdict on an operation.

    A rule counts if the operation would newly violate it. If the operation starts a migration, every violated rule
    counts. Raises `Unknown` for all facts that rules need and that were not queried yet. Rules that only warn need none
    once the request is refused: they are judged as far as the facts are known.
    """
    look = _Look(operation, before, operation.after(before), policy)
    modes = [(rule, rule.mode(policy)) for rule in _rules_for(type(operation), policy)]
    found, lacking = look.at(modes, Mode.ENFORCE)
    warned, unknown = look.at(modes, Mode.WARN)
    refused = any(finding.mode is Mode.ENFORCE for each in found.values() for finding in each)
    if not refused and not any(each.decided for each in lacking):
        lacking += unknown
    if lacking:
        raise Unknown.of(lacking)
    findings = (found | warned).get
    return _with_qemu_check(Verdict(tuple(f for rule, _ in modes for f in findings(rule.id, ()))), operation, before)


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at one operation, rule by rule."""

    operation: Operation
    before: Machine
    after: Machine
    policy: Policy

    def at(self, modes: list[tuple[Rule, Mode]], wanted: Mode) -> tuple[dict[str, list[Finding]], list[Unknown]]:
        """Return the findings of the rules of a mode, by the rule's id, and the facts that others of them lack."""
        found: dict[str, list[Finding]] = {}
        lacking: list[Unknown] = []
        for rule, mode in modes:
            if mode is wanted:
                try:
                    found[rule.id] = list(self._findings(rule, mode))
                except Unknown as unknown:
                    lacking.append(unknown)
        return found, lacking

    def _findings(self, rule: Rule, mode: Mode) -> Iterator[Finding]:
        after, policy = self.after, self.policy
        try:
            if (problem := rule.fails(after, policy)) is None:
                return
            if after.starting is None and _is_known(problem, rule.fails(self.before, policy)):
                return
        except PlugInFailed as failure:  # fail closed, unless the plug-in's own mode is weaker
            yield from unverified(str(failure), Mode.weaker(mode, unverified_mode(policy))).findings
            return
        if problem.advisory or _is_excused(problem, self.operation, self.before, policy):
            mode = Mode.WARN
        yield Finding(rule.id, mode, problem)


def _is_known(problem: Problem, before: Problem | None) -> bool:
    """Say whether a machine had a problem before, with the same devices. A warning does not make a refusal known."""
    if before is None or (before.advisory and not problem.advisory):
        return False
    return frozenset(problem.devices) <= frozenset(before.devices)


def _is_excused(problem: Problem, operation: Operation, before: Machine, policy: Policy) -> bool:
    """Say whether a problem is only a warning, since its capability is stale. In profile strict none is.

    A hostile client could load a forged snapshot that begins like a postcopy migration.
    """
    if problem.capability is None or policy.strict:
        return False
    return operation.allows_stale(before, problem.capability)


def _with_qemu_check(verdict: Verdict, operation: Operation, before: Machine) -> Verdict:
    """Add QEMU's own check of the most severe finding."""
    if not verdict.findings:
        return verdict
    return Verdict(verdict.findings, qemu_check(operation, before, verdict.refusal or verdict.findings[0]))
