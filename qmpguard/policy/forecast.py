"""The forecast: may this VM migrate, and how, as far as is known. The same rules judge it that judge a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from qmpguard.policy.built_in_combinations import COLO, watched
from qmpguard.policy.facts import Facts, Unknown
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, OVER, POSTCOPY_RAM, Start
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.policy import Policy
from qmpguard.policy.qemu_check import UNTOLD, QemuCheck, Refuses
from qmpguard.policy.snapshots import MULTIFD, NORMAL
from qmpguard.policy.verdict import Verdict

#: the ways to migrate that are told apart, each with the dangerous capability that it uses
WAYS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "postcopy": frozenset({POSTCOPY_RAM}),
    "background snapshot": frozenset({BACKGROUND_SNAPSHOT}),
}
#: the same for a VM that a migration comes to
WAYS_IN: Mapping[str, frozenset[str]] = {"incoming": frozenset(), "incoming postcopy": frozenset({POSTCOPY_RAM})}

#: a migration with the capabilities and in the mode that are set, as a bare `migrate` begins it
NOW = "as it stands now"
SNAPSHOT, CPR = "snapshot to disk", "CPR"
#: QEMU 10.2 and later of a snapshot (migration/options.c: migrate_can_snapshot)
_MULTIFD = "Snapshots are not compatible with multifd"
#: QEMU 9.0 and later of a VFIO device in mode cpr-reboot (hw/vfio/cpr.c)
_SUSPENDED = "VFIO device only supports cpr-reboot for runstate suspended"

#: what helps where a device and the way do not go together
INSTEAD = "migrate the plain way, or unplug the device first"


class Passes(Enum):
    """Whether a migration would be let through."""

    YES = "yes"
    WARNED = "yes, with a warning"
    NO = "no"
    UNKNOWN = "unknown"


_OPEN = frozenset({Passes.YES, Passes.WARNED})


@dataclass(frozen=True, slots=True)
class Forecast:
    """One way to migrate: whether it would pass, and if not simply so, why, by which rule, and what would help.

    ``once`` are settings that must change first for the way to be this one, as "postcopy-ram is off".
    """

    way: str
    passes: Passes
    reason: str = ""
    rule: str = ""
    fix: str = ""
    qemu_check: QemuCheck = UNTOLD
    once: tuple[str, ...] = ()


def as_it_stands(facts: Facts, policy: Policy) -> Forecast:
    """Return what would become of a bare `migrate`: nothing that is set is changed before."""
    return _in_mode(NOW, Start.OUTGOING, Machine(facts), policy)


def forecasts(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return what would become of each way to migrate out, begun now. A fact that is missing makes it unknown."""
    return tuple(_forecast(way, Start.OUTGOING, on, facts, policy) for way, on in WAYS.items())


def arrivals(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return what would become of each way to migrate in, begun now."""
    return tuple(_forecast(way, Start.INCOMING, on, facts, policy) for way, on in WAYS_IN.items())


def others(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return what would become of what is told apart from the ways to migrate: a snapshot to disk, CPR, and COLO.

    The snapshot is taken with the capabilities and in the mode that are set now.
    """
    colo = _forecast("COLO", Start.OUTGOING, frozenset({COLO}), facts, policy)
    return _saved(facts, policy), _cpr(facts, policy), colo


def _saved(facts: Facts, policy: Policy) -> Forecast:
    forecast = _in_mode(SNAPSHOT, Start.SAVE, Machine(facts), policy)
    if forecast.passes is Passes.NO or MULTIFD not in (facts.capabilities or ()):
        return forecast
    return Forecast(
        SNAPSHOT, Passes.NO, f"QEMU itself refuses: {_MULTIFD}", qemu_check=QemuCheck(Refuses.YES, _MULTIFD)
    )


def _cpr(facts: Facts, policy: Policy) -> Forecast:
    """Return what would become of CPR in its mode `cpr-reboot`, which needs no preparation."""
    machine = Machine(facts).with_capabilities((name, False) for name in watched(policy).capabilities)
    forecast = _in_mode(CPR, Start.OUTGOING, machine.with_parameters([("mode", "cpr-reboot")]), policy)
    stays = facts.runstate != "suspended" and any(d.driver != "vfio-user-pci" for d in facts.devices or ())
    if forecast.passes is not Passes.NO and stays:
        return Forecast(
            CPR, Passes.NO, f"QEMU itself refuses: {_SUSPENDED}", qemu_check=QemuCheck(Refuses.YES, _SUSPENDED)
        )
    return forecast


def lacks_cpr(facts: Facts) -> str:
    """Return why there can be no CPR; empty where this QEMU has it, or nobody has asked."""
    return "" if facts.parameters is None or "mode" in facts.parameters else "this QEMU has no CPR"


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


def _forecast(way: str, start: Start, on: frozenset[str], facts: Facts, policy: Policy) -> Forecast:
    machine = Machine(facts).with_capabilities((name, name in on) for name in watched(policy).capabilities)
    forecast = _in_mode(way, start, machine.with_parameters([("mode", NORMAL)]), policy)
    return replace(forecast, once=_once(on, facts, policy)) if forecast.passes in _OPEN else forecast


def _once(on: frozenset[str], facts: Facts, policy: Policy) -> tuple[str, ...]:
    """Return what is set now and would keep a migration from being of a way that uses some capabilities."""
    mode = (facts.parameters or {}).get("mode", NORMAL)
    off = sorted((watched(policy).capabilities - on) & frozenset(facts.capabilities or ()))
    return (*(f"{name} is off" for name in off), *(("mode is normal",) if mode != NORMAL else ()))


def _in_mode(way: str, start: Start, machine: Machine, policy: Policy) -> Forecast:
    try:
        verdict = judge(StartMigration(start), machine, policy)
        blockers = () if start is Start.INCOMING or way == CPR else machine.migration.blockers
    except Unknown as unknown:
        return Forecast(way, Passes.UNKNOWN, f"not known yet: {unknown}")
    if verdict.refusal is None and blockers:
        qemu_check = QemuCheck(Refuses.YES, f"blocked: {blockers[-1]}")  # QEMU names the one that it lists last
        return Forecast(way, Passes.NO, f"QEMU itself refuses: {blockers[-1]}", qemu_check=qemu_check)
    return _of_verdict(way, verdict)


def _of_verdict(way: str, verdict: Verdict) -> Forecast:
    if not verdict.findings:
        return Forecast(way, Passes.YES)
    finding = verdict.refusal or verdict.findings[0]
    passes = Passes.WARNED if verdict.refusal is None else Passes.NO
    problem = finding.problem
    combined = way != NOW and problem.capability is not None and problem.devices  # it is a plan, and not on yet
    fix = INSTEAD if combined else problem.fix
    return Forecast(way, passes, problem.refusal, finding.rule, fix, verdict.qemu_check)
