"""The JSON objects of the admin interface, one function for each type. `openapi.py` has their schemas."""

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
    from qmpguard.policy.problem import Finding
    from qmpguard.policy.rules import Row
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.proxy.state.last_seen import MigrationHistory
    from qmpguard.proxy.state.snapshot import Client, Snapshot
    from qmpguard.record import Entry, Peer, Record, Run

Object: TypeAlias = dict[str, Any]

#: the API's words for a forecast
PASSES = {Passes.YES: "yes", Passes.WARNED: "warned", Passes.NO: "no", Passes.UNKNOWN: "unknown"}


def state(snapshot: Snapshot) -> str:
    """Return a VM's state in one word: ``ready``, ``busy``, ``silent`` or ``down``."""
    if not snapshot.link.up:
        return "down"
    return snapshot.qemu.pulse.value if snapshot.qemu.pulse in (Pulse.BUSY, Pulse.SILENT) else "ready"


def vm(snapshot: Snapshot, run: Run) -> Object:
    """Return the object of a VM."""
    facts = snapshot.facts
    return {
        "name": snapshot.name,
        "state": state(snapshot),
        "ready": not snapshot.faults,
        "faults": list(snapshot.faults),
        "notes": list(snapshot.notes),
        "link": {"up": snapshot.link.up, "since": snapshot.link.since, "reason": snapshot.link.reason},
        "qemu": {"version": snapshot.qemu.version, "package": snapshot.qemu.package} if snapshot.qemu.version else None,
        "heartbeat": snapshot.qemu.pulse.value,
        "clients": [client(one) for one in snapshot.clients],
        "seen": snapshot.seen,
        "run_state": facts.runstate,
        "capabilities": None if facts.capabilities is None else sorted(facts.capabilities),
        "devices": _devices(facts),
        "migration": _migration(snapshot.history, facts),
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
            for p in snapshot.forecasts
        ],
        "profile": snapshot.judging.policy.profile.value,
        "mode": snapshot.judging.policy.mode.value,
        "rules": [{"id": rule, "mode": mode.value} for rule, mode in snapshot.judging.modes],
        "overrides": [override(one) for one in snapshot.judging.overrides],
        "drift": {
            "count": snapshot.counts.drifts,
            "last": None if snapshot.drift is None else entry(snapshot.drift, run),
        },
        "counts": counts(snapshot.counts),
    }


def client(one: Client) -> Object:
    """Return the object of a client."""
    return {**peer(one.peer), "state": one.state, "since": one.since, "outstanding": one.outstanding}


def override(one: Override) -> Object:
    """Return the object of an override; rule null: all rules."""
    return {"rule": one.rule, "until": one.until, "reason": one.reason, "client": peer(one.peer)}


def peer(one: Peer) -> Object:
    """Return the object of a session's peer."""
    return {"number": one.number, "pid": one.pid, "uid": one.uid, "gid": one.gid}


def entry(one: Entry, run: Run) -> Object:
    """Return the object of an entry; a stream can be resumed after its id."""
    kind, more = _entry_members(one.what)
    return {"id": run.ref(one.number), "time": one.time, "vm": one.vm, "kind": kind, **more}


def kind_of(what: Record) -> str:
    """Return the kind of a record: ``decision``, ``drift``, ``link``, ``event`` or ``override``."""
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


def modes(snapshot: Snapshot) -> dict[str, str]:
    """Return the mode of each rule for a VM."""
    return {rule: mode.value for rule, mode in snapshot.judging.modes}


def rules(of_vms: Mapping[str, Mapping[str, str]], added: Iterable[Row] = ()) -> Iterator[Object]:
    """Yield the objects of the built-in rules, then those ``added`` by policies, each with its mode for each VM."""
    for rule, standard, strict, summary in (*table(), *added):
        yield {
            "id": rule,
            "standard": standard,
            "strict": strict,
            "summary": summary,
            "modes": {name: of_vm[rule] for name, of_vm in of_vms.items() if rule in of_vm},
        }


def vm_readiness(snapshot: Snapshot) -> Object:
    """Return the readiness of a VM, with its faults and notes."""
    return {
        "name": snapshot.name,
        "ready": not snapshot.faults,
        "reasons": list(snapshot.faults),
        "notes": list(snapshot.notes),
    }


def readiness(vms: Sequence[Object], *, by_name: bool) -> Object:
    """Return the readiness of all VMs; without names and details unless ``by_name``."""
    ready = all(vm["ready"] for vm in vms)
    if not by_name:
        return {"ready": ready, "reasons": sorted({why.partition(":")[0] for vm in vms for why in vm["reasons"]})}
    return {"ready": ready, "reasons": [f"{vm['name']}: {why}" for vm in vms for why in vm["reasons"]], "vms": vms}


def _entry_members(what: Record) -> tuple[str, Object]:
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
    """Return the counters of a VM."""
    return {
        "passed": of.passed,
        "allowed": of.allowed,
        "warned": of.warned,
        "refused": of.refused,
        "events": of.events,
        "clients": of.clients,
        "links": of.links,
    }
