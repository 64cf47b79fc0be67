"""What the admin interface says, as plain JSON values: one function for each noun. `openapi.py` describes the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from qmpguard.policy.drift import Drift
from qmpguard.policy.forecast import Passes
from qmpguard.policy.rules import table
from qmpguard.proxy.state.snapshot import Pulse
from qmpguard.record import Decision, Event, LinkChange, Override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from qmpguard.policy.device import Device
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.rules import Row
    from qmpguard.policy.verdict import Finding
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.proxy.state.last_seen import MigrationHistory
    from qmpguard.proxy.state.snapshot import Client, Snapshot
    from qmpguard.record import Entry, Happening, Peer, Run

Object: TypeAlias = dict[str, Any]

#: the short words of the API for what the forecast says
PASSES = {Passes.YES: "yes", Passes.WARNED: "warned", Passes.NO: "no", Passes.UNKNOWN: "unknown"}


def state(shot: Snapshot) -> str:
    """Return a VM's state in one word: ``ready``, ``busy``, ``silent`` or ``down``."""
    if not shot.link.up:
        return "down"
    return shot.qemu.pulse.value if shot.qemu.pulse in (Pulse.BUSY, Pulse.SILENT) else "ready"


def vm(shot: Snapshot, run: Run) -> Object:
    """Return all that is known of a VM."""
    facts = shot.facts
    return {
        "name": shot.name,
        "state": state(shot),
        "ready": not shot.faults,
        "faults": list(shot.faults),
        "notes": list(shot.notes),
        "link": {"up": shot.link.up, "since": shot.link.since, "reason": shot.link.reason},
        "qemu": {"version": shot.qemu.version, "package": shot.qemu.package} if shot.qemu.version else None,
        "heartbeat": shot.qemu.pulse.value,
        "clients": [client(one) for one in shot.clients],
        "seen": shot.seen,
        "run_state": facts.runstate,
        "capabilities": None if facts.capabilities is None else sorted(facts.capabilities),
        "devices": _devices(facts),
        "migration": _migration(shot.history, facts),
        "may_migrate": [
            {
                "way": p.way,
                "answer": PASSES[p.passes],
                "reason": p.reason,
                "rule": p.rule,
                "fix": p.fix,
                "once": list(p.once),
                "native": p.qemu_check.refuses.value,
            }
            for p in shot.forecasts
        ],
        "profile": shot.judging.policy.profile.value,
        "mode": shot.judging.policy.mode.value,
        "rules": [{"id": rule, "mode": mode.value} for rule, mode in shot.judging.modes],
        "overrides": [override(one) for one in shot.judging.overrides],
        "drift": {"count": shot.counts.drifts, "last": None if shot.drift is None else entry(shot.drift, run)},
        "counts": counts(shot.counts),
    }


def client(one: Client) -> Object:
    """Return a client."""
    return {**peer(one.peer), "state": one.state, "since": one.since, "outstanding": one.outstanding}


def override(one: Override) -> Object:
    """Return what lets a rule warn for a while; rule null: all of them."""
    return {"rule": one.rule, "until": one.until, "reason": one.reason, "client": peer(one.peer)}


def peer(one: Peer) -> Object:
    """Return who is at the other end of a session."""
    return {"number": one.number, "pid": one.pid, "uid": one.uid, "gid": one.gid}


def entry(one: Entry, run: Run) -> Object:
    """Return one happening; its id is the place from which a stream can be resumed."""
    kind, more = _happening(one.what)
    return {"id": run.ref(one.number), "time": one.time, "vm": one.vm, "kind": kind, **more}


def kind_of(what: Happening) -> str:
    """Return which kind of happening it is: ``decision``, ``drift``, ``link``, ``event`` or ``override``."""
    match what:
        case Decision():
            return "decision"
        case Drift():
            return "drift"
        case LinkChange():
            return "link"
        case Event():
            return "event"
        case Override():
            return "override"
        case _:
            assert_never(what)


def modes(shot: Snapshot) -> dict[str, str]:
    """Return the mode of each rule for a VM."""
    return {rule: mode.value for rule, mode in shot.judging.modes}


def rules(of_vms: Mapping[str, Mapping[str, str]], added: Iterable[Row] = ()) -> Iterator[Object]:
    """Yield the rows of the table of rules, then those ``added`` by policies, each with its mode for each VM."""
    for rule, standard, strict, summary in (*table(), *added):
        yield {
            "id": rule,
            "standard": standard,
            "strict": strict,
            "summary": summary,
            "modes": {name: of_vm[rule] for name, of_vm in of_vms.items() if rule in of_vm},
        }


def vm_readiness(shot: Snapshot) -> Object:
    """Return whether a VM is ready, and what is wrong."""
    return {"name": shot.name, "ready": not shot.faults, "reasons": list(shot.faults), "notes": list(shot.notes)}


def readiness(vms: Sequence[Object], *, by_name: bool) -> Object:
    """Return whether every VM is ready and what is wrong; without names and details for whom we do not know."""
    ready = all(vm["ready"] for vm in vms)
    if not by_name:
        return {"ready": ready, "reasons": sorted({why.partition(":")[0] for vm in vms for why in vm["reasons"]})}
    return {"ready": ready, "reasons": [f"{vm['name']}: {why}" for vm in vms for why in vm["reasons"]], "vms": vms}


def _happening(what: Happening) -> tuple[str, Object]:
    kind = kind_of(what)
    match what:
        case Decision():
            return kind, _decision(what)
        case Drift():
            return kind, {"fact": what.fact.value, "before": list(what.before), "after": list(what.after)}
        case LinkChange():
            return kind, {"up": what.up, "what": what.what}
        case Event():
            return kind, {"name": what.name, "data": json.loads(what.data)}
        case Override():
            return kind, {"begun": what.begun, **override(what)}
        case _:
            assert_never(what)


def _decision(decision: Decision) -> Object:
    return {
        "ref": decision.ref,
        "client": peer(decision.peer),
        "command": decision.command,
        "hmp": decision.hmp or None,
        "outcome": decision.outcome.value,
        "text": decision.text,
        "qemu": decision.qemu,
        "native": decision.qemu_check,
        "took": decision.took,
        "findings": [_finding(finding) for finding in decision.verdict.findings],
    }


def _finding(finding: Finding) -> Object:
    problem = finding.problem
    return {
        "rule": finding.rule,
        "mode": finding.mode.value,
        "reason": problem.refusal,
        "fix": problem.fix,
        "devices": list(problem.devices),
        "capability": problem.capability,
    }


def _devices(facts: Facts) -> list[Object] | None:
    devices = facts.devices if facts.details is None else facts.details
    if devices is None:
        return None
    return [_device(d, hidden=False) for d in devices] + [_device(d, hidden=True) for d in facts.hidden]


def _device(device: Device, *, hidden: bool) -> Object:
    return {
        "path": device.path,
        "driver": device.driver,
        "id": device.id,
        "name": device.name,
        "host": device.host,
        "sysfsdev": device.sysfsdev,
        "failover_pair_id": device.failover_pair_id,
        "hidden": hidden,
    }


def _migration(history: MigrationHistory, facts: Facts) -> Object:
    progress = history.progress
    return {
        "status": history.status,
        "under_way": history.under_way,
        "steps": [{"time": step.time, "status": step.status} for step in history.steps],
        "ram_sent": progress.sent if progress else None,
        "ram_remaining": progress.remaining if progress else None,
        "ram_total": progress.total if progress else None,
        "vfio_transferred": progress.vfio if progress else None,
        "blockers": list(facts.migration.blockers) if facts.migration else [],
    }


def counts(of: Counters) -> Object:
    """Return what is counted of a VM."""
    return {
        "passed": of.passed,
        "allowed": of.allowed,
        "warned": of.warned,
        "refused": of.refused,
        "events": of.events,
        "clients": of.clients,
        "links": of.links,
    }
