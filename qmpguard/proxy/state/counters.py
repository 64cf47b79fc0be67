"""What is counted of one VM: plain numbers that cost a few nanoseconds each, read by whoever shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpguard.proxy.closing import CloseReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.record import Decision

#: upper bounds in seconds: a survey takes a millisecond, a QEMU that is busy with a large device may take a minute
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: clients whose connection broke
BROKEN = "connection_broken"
#: clients that were disconnected and did not end the conversation: the short name of each reason
DROPS: Mapping[CloseReason, str] = {
    CloseReason.QEMU_GONE: "qemu_gone",
    CloseReason.QEMU_ABSENT: "qemu_absent",
    CloseReason.DOES_NOT_READ: "does_not_read",
    CloseReason.LOST_DESCRIPTORS: "descriptors",
    CloseReason.NO_DESCRIPTORS: "no_descriptors",
    CloseReason.TOO_MUCH_HELD: "too_much_held",
    CloseReason.FAILED: "guard_failed",
    CloseReason.BROKEN: BROKEN,
}
#: clients that were refused before a conversation
TOO_MANY, NOT_ALLOWED = "too_many_clients", "not_allowed"
DROP_REASONS = (*(name for name in DROPS.values() if name != BROKEN), TOO_MANY, NOT_ALLOWED, BROKEN)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a process counts for all of its VMs: reloads, and by where they should be, lines that it could not write."""

    reloads: int = 0
    failed_reloads: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)


class Durations:
    """How often something took how long: a histogram over `BOUNDS`."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Counters:
    """What has happened so far. ``decisions`` is by rule, verdict and mode, ``drops`` by `DROP_REASONS`.

    ``faults`` are exceptions of the guard that nobody expected, by where.
    """

    passed: int = 0
    allowed: int = 0
    refused: int = 0
    warned: int = 0
    drifts: int = 0
    links: int = 0
    clients: int = 0
    events: int = 0
    malformed: int = 0
    descriptors_received: int = 0
    descriptors_passed: int = 0
    decisions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    commands: Durations = field(default_factory=Durations)
    faults: Counter[str] = field(default_factory=Counter)

    def decided(self, decision: Decision) -> None:
        """Count a decision, and each of its findings."""
        refusal = decision.verdict.refusal
        self.allowed += not decision.verdict.findings
        for finding in decision.verdict.findings:
            refused = finding is refusal
            self.refused += refused
            self.warned += not refused
            self.decisions[finding.rule, "refused" if refused else "warned", finding.mode.value] += 1
        if not decision.verdict.findings:
            self.decisions["none", "allowed", "none"] += 1

    def no_descriptors(self) -> None:
        """Count a client that was closed because the process has almost no descriptor left."""
        self.drops[DROPS[CloseReason.NO_DESCRIPTORS]] += 1

    def on_client_closed(self, reason: CloseReason) -> None:
        """Count a client that was disconnected; one that left, or that the guard's stop has ended, is none."""
        if (name := DROPS.get(reason)) is not None:
            self.drops[name] += 1
