"""The audit: one JSON object a line for every decision and every override, in a file or in systemd's journal."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from qmpguard.record import Decision, Override

if TYPE_CHECKING:
    from qmpguard.logs.linefile import Sink
    from qmpguard.policy.problem import Finding
    from qmpguard.record import Entry, Peer

log = logging.getLogger(__name__)

Object: TypeAlias = dict[str, Any]


class Audit:
    """Writes the decisions and overrides among a journal's entries to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def on_entry(self, entry: Entry) -> None:
        """Called with each new entry of a journal; writes decisions and overrides. Never raises."""
        try:
            line = record(entry)
        except Exception as error:  # the verdict must stand
            log.error("vm=%s a line of the audit cannot be built: %r", entry.vm, error, exc_info=error)
            self._sink.count()
            return
        if line is not None:
            self._sink.put(json.dumps(line, ensure_ascii=True).encode())


def record(entry: Entry) -> Object | None:
    """Return the audit's JSON object for a decision or an override; None for any other entry."""
    head = {"time": datetime.fromtimestamp(entry.time, UTC).isoformat(), "vm": entry.vm}
    match entry.what:
        case Decision() as decision:
            return {**head, "kind": "decision", **_decision(decision)}
        case Override() as override:
            return {**head, "kind": "override", **_override(override)}
        case _:
            return None


def _decision(decision: Decision) -> Object:
    findings = decision.verdict.findings
    first = decision.verdict.refusal or (findings[0] if findings else None)
    return {
        "ref": decision.ref,
        "client": _client(decision.peer),
        "command": decision.command,
        **({"hmp": decision.hmp} if decision.hmp else {}),
        "verdict": decision.outcome.value,
        **_found(first),
        "others": [_found(finding) for finding in findings if finding is not first],
        "qemu": decision.qemu,
        "native": decision.qemu_check,
        "text": decision.text,
    }


def _found(finding: Finding | None) -> Object:
    if finding is None:
        return {"rule": None, "mode": None, "devices": [], "capability": None, "reason": None}
    problem = finding.problem
    return {
        "rule": finding.rule,
        "mode": finding.mode.value,
        "devices": list(problem.devices),
        "capability": problem.capability,
        "reason": problem.refusal,
    }


def _override(override: Override) -> Object:
    return {
        "begun": override.begun,
        "rule": override.rule,
        "until": datetime.fromtimestamp(override.until, UTC).isoformat(),
        "reason": override.reason,
        "client": _client(override.peer),
    }


def _client(peer: Peer) -> Object:
    return {"number": peer.number, "pid": peer.pid, "uid": peer.uid, "gid": peer.gid}
