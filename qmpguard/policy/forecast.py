"""The forecast: the verdict on each way to migrate this VM, by the same rules that judge a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from qmpguard.policy.built_in_combinations import COLO, watched_settings
from qmpguard.policy.facts import Facts, Unknown
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, OVER, POSTCOPY_RAM, Start
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.policy import Policy
from qmpguard.policy.qemu_check import UNKNOWN_CHECK, QemuCheck, Refuses
from qmpguard.policy.snapshots import NORMAL, check_of_snapshot
from qmpguard.policy.verdict import Verdict

#: the ways to migrate out, each with the dangerous capability that it uses
WAYS: Mapping[str, frozenset[str]] = {
    "plain": frozenset(),
    "postcopy": frozenset({POSTCOPY_RAM}),
    "background snapshot": frozenset({BACKGROUND_SNAPSHOT}),
}
#: the ways to migrate in
WAYS_IN: Mapping[str, frozenset[str]] = {"incoming": frozenset(), "incoming postcopy": frozenset({POSTCOPY_RAM})}

#: a migration with the capabilities and in the mode that are set, as a bare `migrate` begins it
NOW = "as it stands now"
SNAPSHOT, CPR = "snapshot to disk", "CPR"
#: the error of QEMU 9.0 and later for a VFIO device in mode cpr-reboot (hw/vfio/cpr.c)
_SUSPENDED = "VFIO device only supports cpr-reboot for runstate suspended"

#: the fix where a device and the way are refused together
INSTEAD = "migrate the plain way, or unplug the device first"


class Passes(Enum):
    """Whether a migration would pass."""

    YES = "yes"
    WARNED = "yes, with a warning"
    NO = "no"
    UNKNOWN = "unknown"


_OPEN = frozenset({Passes.YES, Passes.WARNED})


@dataclass(frozen=True, slots=True)
class Forecast:
    """One way to migrate: whether it would pass; if refused or warned of, the reason, the rule and the fix.

    ``once`` are settings that must change before a migration is of this way, such as "postcopy-ram is off".
    """

    way: str  # "plain", "postcopy", "background snapshot", "incoming", ...
    passes: Passes
    reason: str = ""  # empty if it passes without a warning
    rule: str = ""  # the rule that was violated
    fix: str = ""  # the remedy
    qemu_check: QemuCheck = UNKNOWN_CHECK
    once: tuple[str, ...] = ()


def as_it_stands(facts: Facts, policy: Policy) -> Forecast:
    """Return the forecast of a bare `migrate`, with the settings as they are."""
    return _in_mode(NOW, Start.OUTGOING, Machine(facts), policy)


def forecasts(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return the forecast of each way to migrate out now. A missing fact makes it unknown."""
    return tuple(_forecast(way, Start.OUTGOING, on, facts, policy) for way, on in WAYS.items())


def incoming_forecasts(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return the forecast of each way to migrate in now."""
    return tuple(_forecast(way, Start.INCOMING, on, facts, policy) for way, on in WAYS_IN.items())


def others(facts: Facts, policy: Policy) -> tuple[Forecast, ...]:
    """Return the forecasts of a snapshot to disk, of CPR and of COLO.

    The snapshot's forecast is for the present capabilities and the present migration mode.
    """
    colo = _forecast("COLO", Start.OUTGOING, frozenset({COLO}), facts, policy)
    return _saved(facts, policy), _cpr(facts, policy), colo


def _saved(facts: Facts, policy: Policy) -> Forecast:
    forecast = _in_mode(SNAPSHOT, Start.SAVE, Machine(facts), policy)
    own = None if facts.capabilities is None else check_of_snapshot(Machine(facts))
    if forecast.passes is Passes.NO or own is None:
        return forecast
    return Forecast(SNAPSHOT, Passes.NO, f"QEMU itself refuses: {own.reason}", qemu_check=own)


def _cpr(facts: Facts, policy: Policy) -> Forecast:
    """Return the forecast of CPR in mode `cpr-reboot`, which needs no preparation."""
    machine = Machine(facts).with_capabilities((name, False) for name in watched_settings(policy).capabilities)
    forecast = _in_mode(CPR, Start.OUTGOING, machine.with_parameters([("mode", "cpr-reboot")]), policy)
    stays = facts.runstate != "suspended" and any(d.driver != "vfio-user-pci" for d in facts.devices or ())
    if forecast.passes is not Passes.NO and stays:
        return Forecast(
            CPR, Passes.NO, f"QEMU itself refuses: {_SUSPENDED}", qemu_check=QemuCheck(Refuses.YES, _SUSPENDED)
        )
    return forecast


def lacks_cpr(facts: Facts) -> str:
    """Return why CPR is impossible; empty where this QEMU has it, or the parameters were not queried."""
    return "" if facts.parameters is None or "mode" in facts.parameters else "this QEMU has no CPR"


def obstacle(facts: Facts, start: Start) -> str:
    """Return why no migration in a direction can begin now, with or without VFIO; empty where one can."""
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
    machine = Machine(facts).with_capabilities((name, name in on) for name in watched_settings(policy).capabilities)
    forecast = _in_mode(way, start, machine.with_parameters([("mode", NORMAL)]), policy)
    return replace(forecast, once=_once(on, facts, policy)) if forecast.passes in _OPEN else forecast


def _once(on: frozenset[str], facts: Facts, policy: Policy) -> tuple[str, ...]:
    """Return the settings that must change before a migration uses just these capabilities."""
    mode = (facts.parameters or {}).get("mode", NORMAL)
    off = sorted((watched_settings(policy).capabilities - on) & frozenset(facts.capabilities or ()))
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
    combined = way != NOW and problem.capability is not None and problem.devices  # it is hypothetical here
    fix = INSTEAD if combined and not problem.advisory else problem.fix
    return Forecast(way, passes, problem.refusal, finding.rule, fix, verdict.qemu_check)
