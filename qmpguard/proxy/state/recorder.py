"""The one place where what happens to a VM goes into the journal, the counters and the log."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.proxy.state.counters import Counters
from qmpguard.proxy.state.snapshot import LinkState
from qmpguard.record import Decision, Event, Journal, LinkChange

if TYPE_CHECKING:
    from qmpguard.policy.drift import Drift
    from qmpguard.policy.problem import Finding
    from qmpguard.policy.verdict import Verdict
    from qmpguard.record import Entry, Peer, Record, Run
    from qmpguard.wire.qemu_messages import QemuEvent

log = logging.getLogger(__name__)


class Recorder:
    """Writes down what happens to one VM. ``standing`` is how its link is, ``qemu`` the version of who is there."""

    def __init__(self, name: str, run: Run) -> None:
        self.journal = Journal(name, run)
        self.counts = Counters()
        self.standing = LinkState(up=False, since=time.time(), reason="QEMU has not appeared yet")
        self.last_drift: Entry | None = None
        self.qemu = "gone"
        self._name = name

    def happened(self, what: Record) -> Entry:
        """Put anything on record."""
        return self.journal.add(time.time(), what)

    def up(self, version: str) -> None:
        """Called when there is a link."""
        self.qemu = version
        self.counts.links += 1
        log.info("vm=%s link=up qemu=%s", self._name, version)
        self.standing = LinkState(up=True, since=self.happened(LinkChange(up=True, what=version)).time)

    def down(self, reason: str) -> None:
        """Called when there is none any more."""
        self.qemu = "gone"
        log.warning("vm=%s link=down reason=%r", self._name, reason)
        entry = self.happened(LinkChange(up=False, what=reason))
        self.standing = LinkState(up=False, since=entry.time, reason=reason)

    def absent(self, reason: str, cause: str) -> None:
        """Say better why there is no link; ``cause`` is one short name of few, for machines."""
        if not self.standing.up:
            self.standing = replace(self.standing, reason=reason, cause=cause)

    def event(self, event: QemuEvent) -> None:
        """Write down an event of QEMU."""
        self.counts.events += 1
        self.happened(Event(event.name, json.dumps(event.data)))

    def drifted(self, drift: Drift) -> None:
        """Write down what has changed behind the guard's back."""
        self.counts.drifts += 1
        self.last_drift = self.happened(drift)
        log.warning("vm=%s drift: not changed through the guard: %s", self._name, drift)

    def decided(self, peer: Peer, command: str, verdict: Verdict, took: float, hmp: str = "") -> Decision:
        """Write down a verdict, ``took`` seconds after its request, and return it with its reference."""
        qemu_check = verdict.qemu_check.refuses.value
        decision = Decision(self.journal.next_ref, peer, command, verdict, self.qemu, qemu_check, took, hmp)
        self.happened(decision)
        self.counts.decided(decision)
        for finding in verdict.findings:
            self._tell(decision, finding)
        return decision

    def _tell(self, decision: Decision, finding: Finding) -> None:
        outcome = "refused" if finding is decision.verdict.refusal else "warned"
        found = (outcome, finding.rule, decision.ref, finding.problem.refusal)
        known = {"on_record": True}
        if decision.hmp:
            log.warning(
                "vm=%s client=%s command=%s hmp=%r verdict=%s rule=%s ref=%s reason=%r",
                *(self._name, decision.peer, decision.command, decision.hmp, *found),
                extra=known,
            )
        else:
            log.warning(
                "vm=%s client=%s command=%s verdict=%s rule=%s ref=%s reason=%r",
                *(self._name, decision.peer, decision.command, *found),
                extra=known,
            )
