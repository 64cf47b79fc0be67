"""The outlook: may this VM migrate, and how, as far as is known. The same rules judge it that judge a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import BACKGROUND_SNAPSHOT, DANGEROUS, POSTCOPY_RAM, Facts, Machine, Start, Unknown
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.policy import Policy
from qmpguard.policy.verdict import Finding, Verdict

#: the ways to migrate that are told apart, each with the dangerous capability that it uses
WAYS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "postcopy": frozenset({POSTCOPY_RAM}),
    "background snapshot": frozenset({BACKGROUND_SNAPSHOT}),
}

#: what helps where a device and the way do not go together
INSTEAD = "migrate the plain way, or unplug the device first"


class Chance(Enum):
    """Whether a migration would be let through."""

    YES = "yes"
    WARNED = "yes, with a warning"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Prospect:
    """One way to migrate: whether it would pass, and if not simply so, why, by which rule, and what would help."""

    way: str
    chance: Chance
    reason: str = ""
    rule: str = ""
    fix: str = ""


def outlook(facts: Facts, policy: Policy) -> tuple[Prospect, ...]:
    """Return what would become of each way to migrate out, begun now. A fact that is missing makes it unknown."""
    return tuple(_prospect(way, on, facts, policy) for way, on in WAYS.items())


def _prospect(way: str, on: frozenset[str], facts: Facts, policy: Policy) -> Prospect:
    machine = Machine(facts).with_capabilities((name, name in on) for name in DANGEROUS)
    try:
        verdict = judge(StartMigration(Start.OUTGOING), machine, policy)
        blockers = machine.migration.blockers
    except Unknown as unknown:
        return Prospect(way, Chance.UNKNOWN, f"not known yet: {unknown}")
    if verdict.refusal is None and blockers:
        return Prospect(way, Chance.NO, f"QEMU itself refuses: {blockers[0]}")
    return _of_verdict(way, verdict)


def _of_verdict(way: str, verdict: Verdict) -> Prospect:
    if verdict.refusal is not None:
        return _of_finding(way, Chance.NO, verdict.refusal)
    if verdict.findings:
        return _of_finding(way, Chance.WARNED, verdict.findings[0])
    return Prospect(way, Chance.YES)


def _of_finding(way: str, chance: Chance, finding: Finding) -> Prospect:
    problem = finding.problem
    combined = problem.capability is not None and problem.devices  # here the capability is a plan, and not on yet
    return Prospect(way, chance, problem.refusal, finding.rule, INSTEAD if combined else problem.fix)
