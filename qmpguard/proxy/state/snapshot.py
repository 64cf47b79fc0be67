"""All that is known of one VM at one moment, from memory: QEMU is not asked, so a QEMU that hangs delays nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.policy.forecast import WAYS, Forecast, Passes
from qmpguard.policy.policy import Mode
from qmpguard.policy.rules import Row, added, modes
from qmpguard.proxy.judging.gate import BUSY

if TYPE_CHECKING:
    from qmpguard.policy.machine import Facts
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.hub import Hub
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
class Snapshot:
    """One VM. ``seen`` is when QEMU was last looked at; ``drift`` the last of them; the counts count on."""

    name: str
    time: float
    link: LinkState
    qemu: str
    package: str
    pulse: Pulse
    clients: tuple[Client, ...]
    seen: float | None
    facts: Facts
    history: MigrationHistory
    policy: Policy
    rules: tuple[tuple[str, Mode], ...]
    added_rules: tuple[Row, ...]  # those of the policy, beside the built-in ones
    forecasts: tuple[Forecast, ...]
    drift: Entry | None
    ways_around: tuple[str, ...]
    counts: Counters
    surveys: Durations
    overrides: tuple[Override, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """Why this VM is not ready to be used; empty when it is."""
        if not self.link.up:
            return (f"no link to QEMU: {self.link.reason}",)
        if self.pulse is Pulse.SILENT:
            return ("QEMU does not answer: it is stopped or hangs",)
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not keep it from being used, but should be known."""
        mode = dict(self.rules)["new-monitor"]
        told = f"rule new-monitor is in mode {mode.value}: what opens a way around the guard is let through"
        return (
            *(str(override) for override in self.overrides),
            *self.remarks,
            *(() if mode is Mode.ENFORCE else (told,)),
            *(f"{way} was let through: there may be a way around the guard" for way in self.ways_around),
        )


def take(hub: Hub) -> Snapshot:
    """Return the present state of a hub's VM; never waits and never raises."""
    greeting, gate = hub.greeting, hub.gate
    facts = gate.last_seen.facts
    return Snapshot(
        name=hub.name,
        time=time.time(),
        link=hub.recorder.standing,
        qemu=greeting.version if greeting else "",
        package=greeting.package if greeting else "",
        pulse=_pulse(hub),
        clients=tuple(
            Client(session.peer, session.state.value, session.since, session.outstanding)
            for session in sorted(hub.clients, key=lambda session: session.peer.number)
        ),
        seen=gate.last_seen.time,
        facts=facts,
        history=gate.last_seen.history,
        policy=gate.policy,
        rules=modes(gate.policy),
        added_rules=added(gate.policy),
        forecasts=gate.last_seen.forecasts(gate.policy) if greeting else _NO_LINK,
        drift=hub.recorder.last_drift,
        ways_around=gate.ways_around,
        counts=hub.counts,
        surveys=gate.surveys,
        overrides=hub.overrides.active,
        remarks=tuple(text for remark in hub.remarks if (text := remark())),
    )


_NO_LINK = tuple(Forecast(way, Passes.UNKNOWN, "there is no link to QEMU") for way in WAYS)


def _pulse(hub: Hub) -> Pulse:
    if hub.greeting is None or "oob" not in hub.greeting.offered:
        return Pulse.UNKNOWN
    if not hub.heartbeat.alive:
        return Pulse.SILENT
    return Pulse.BUSY if hub.gate.waits_for > BUSY else Pulse.OK
