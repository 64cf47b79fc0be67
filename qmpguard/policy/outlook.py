"""The outlook: may this VM migrate, and how, as far as is known. The same rules judge it that judge a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from qmpguard.policy.combinations import watched
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import BACKGROUND_SNAPSHOT, OVER, POSTCOPY_RAM, Facts, Machine, Start, Unknown
from qmpguard.policy.native import UNTOLD, Native, Refuses
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.policy import Policy
from qmpguard.policy.verdict import Verdict

#: the ways to migrate that are told apart, each with the dangerous capability that it uses
WAYS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "postcopy": frozenset({POSTCOPY_RAM}),
    "background snapshot": frozenset({BACKGROUND_SNAPSHOT}),
}
#: the same for a VM that a migration comes to
WAYS_IN: Mapping[str, frozenset[str]] = {"incoming": frozenset(), "incoming postcopy": frozenset({POSTCOPY_RAM})}

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
    native: Native = UNTOLD


def outlook(facts: Facts, policy: Policy) -> tuple[Prospect, ...]:
    """Return what would become of each way to migrate out, begun now. A fact that is missing makes it unknown."""
    return tuple(_prospect(way, Start.OUTGOING, on, facts, policy) for way, on in WAYS.items())


def arrivals(facts: Facts, policy: Policy) -> tuple[Prospect, ...]:
    """Return what would become of each way to migrate in, begun now."""
    return tuple(_prospect(way, Start.INCOMING, on, facts, policy) for way, on in WAYS_IN.items())


def obstacle(facts: Facts, start: Start) -> str:
    """Return why no migration at all can begin now in a direction, VFIO or not; empty where one can."""
    waits = facts.runstate == "inmigrate"
    if start is Start.INCOMING:
        return "" if waits else "it was not started with -incoming, or has arrived"
    if waits:
        return "it waits for a migration to come"
    if facts.runstate == "postmigrate":
        return "it has migrated away"
    status = facts.migration.status if facts.migration else "none"
    return "" if status in OVER | {"none"} else f"a migration is under way: {status}"


def _prospect(way: str, start: Start, on: frozenset[str], facts: Facts, policy: Policy) -> Prospect:
    machine = Machine(facts).with_capabilities((name, name in on) for name in watched(policy).capabilities)
    try:
        verdict = judge(StartMigration(start), machine, policy)
        blockers = machine.migration.blockers if start is Start.OUTGOING else ()
    except Unknown as unknown:
        return Prospect(way, Chance.UNKNOWN, f"not known yet: {unknown}")
    if verdict.refusal is None and blockers:
        native = Native(Refuses.YES, f"blocked: {blockers[-1]}")  # QEMU names the one that it lists last
        return Prospect(way, Chance.NO, f"QEMU itself refuses: {blockers[-1]}", native=native)
    return _of_verdict(way, verdict)


def _of_verdict(way: str, verdict: Verdict) -> Prospect:
    if not verdict.findings:
        return Prospect(way, Chance.YES)
    finding = verdict.refusal or verdict.findings[0]
    chance = Chance.WARNED if verdict.refusal is None else Chance.NO
    problem = finding.problem
    combined = problem.capability is not None and problem.devices  # here the capability is a plan, and not on yet
    fix = INSTEAD if combined else problem.fix
    return Prospect(way, chance, problem.refusal, finding.rule, fix, verdict.native)
