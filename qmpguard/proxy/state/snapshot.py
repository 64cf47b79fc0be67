"""All that is known of one VM at one moment, from memory: QEMU is not asked, so a QEMU that hangs delays nobody."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.policy.mode import Mode

if TYPE_CHECKING:
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.forecast import Forecast
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.rules import Row
    from qmpguard.proxy.state.counters import Counters, Durations
    from qmpguard.proxy.state.last_seen import MigrationHistory
    from qmpguard.record import Entry, Override, Peer


class Pulse(Enum):
    """Whether QEMU answers."""

    OK = "ok"
    BUSY = "busy"  # it answers out-of-band, but its main loop is held
    SILENT = "silent"
    UNKNOWN = "unknown"  # no link, or a QEMU without out-of-band


@dataclass(frozen=True, slots=True)
class LinkState:
    """Whether there is a link to QEMU, since when, and why not. Times are in seconds since the epoch.

    ``cause`` is the reason in one word, of `qmpguard.proxy.qemu.absence.Cause`; empty where the reason says it all.
    """

    up: bool
    since: float
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """One client: who it is, how far its conversation has come, since when, and its requests without a reply."""

    peer: Peer
    state: str
    since: float
    outstanding: int


@dataclass(frozen=True, slots=True)
class QemuState:
    """QEMU's version and its packager's name for it, empty where there is no link, and whether it answers."""

    version: str
    package: str
    pulse: Pulse


@dataclass(frozen=True, slots=True)
class Judging:
    """How requests are judged: the policy, the mode of each rule, the rules that a site has added, the overrides."""

    policy: Policy
    modes: tuple[tuple[str, Mode], ...]
    added: tuple[Row, ...] = ()
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One VM at one moment. ``seen`` is the time of the last survey, in seconds since the epoch; None before the first.

    ``drift`` is the last change that no command through the guard has made. ``counts`` and ``surveys`` are the live
    counters: they go on counting after the snapshot was taken.
    """

    name: str
    time: float
    link: LinkState
    qemu: QemuState
    clients: tuple[Client, ...]
    seen: float | None
    facts: Facts
    history: MigrationHistory
    judging: Judging
    forecasts: tuple[Forecast, ...]
    drift: Entry | None
    ways_around: tuple[str, ...]
    counts: Counters
    surveys: Durations
    remarks: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """The reasons why this VM is not ready; empty if it is ready."""
        if not self.link.up:
            return (f"no link to QEMU: {self.link.reason}",)
        if self.qemu.pulse is Pulse.SILENT:
            return ("QEMU does not answer: it is stopped or hangs",)
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the operator about a VM that may be ready all the same: overrides, open ways around the guard."""
        mode = dict(self.judging.modes)["new-monitor"]
        told = f"rule new-monitor is in mode {mode.value}: what opens a way around the guard is let through"
        return (
            *(str(override) for override in self.judging.overrides),
            *self.remarks,
            *(() if mode is Mode.ENFORCE else (told,)),
            *(f"{way} was let through: there may be a way around the guard" for way in self.ways_around),
        )
