"""The metrics: one table, from which Prometheus is answered and docs/metrics.md is written.

Every label has few values: rules, modes, statuses and reasons that this program knows; never what a client sent.
`python -m qmpguard.admin.metrics` prints the document.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from qmpguard.admin import process
from qmpguard.admin.exposition import Encoder, Few, lines
from qmpguard.admin.faults import Drop
from qmpguard.policy.forecast import Passes
from qmpguard.policy.migration import DANGEROUS
from qmpguard.proxy.state.counters import BOUNDS, DROP_REASONS, Durations, Upkeep
from qmpguard.proxy.state.snapshot import Pulse, Snapshot
from qmpguard.version import __version__

if TYPE_CHECKING:
    from qmpguard.admin.states import VmState

Values: TypeAlias = Iterable[tuple[tuple[str, ...], float]]

#: QEMU's MigrationStatus (qapi/migration.json), and one for those that it has not yet
STATUSES = (
    "none", "setup", "cancelling", "cancelled", "active", "postcopy-device", "postcopy-active", "postcopy-paused",
    "postcopy-recover-setup", "postcopy-recover", "completed", "failed", "failing", "colo", "pre-switchover", "device",
    "wait-unplug", "other",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """A gauge or a counter: its name without prefix and ``_total``, meaning, labels beside ``vm``, and its values."""

    name: str
    kind: type[GaugeMetricFamily | CounterMetricFamily]
    meaning: str
    read: Callable[[Snapshot], Values]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """A counter of the process, of one label: its name without prefix and ``_total``, meaning, and its values."""

    name: str
    label: str
    meaning: str
    read: Callable[[Upkeep], Values]


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram of seconds."""

    name: str
    meaning: str
    read: Callable[[Snapshot], Durations]


def _one(value: float) -> Values:
    return (((), value),)


def _commands(shot: Snapshot) -> Values:
    counts = shot.counts
    yield ("passed",), counts.passed
    yield ("allowed",), counts.allowed
    yield ("warned",), sum(n for (_, verdict, _), n in counts.decisions.items() if verdict == "warned")
    yield ("refused",), counts.refused


def _drops(shot: Snapshot) -> Values:
    return (((reason,), shot.counts.drops[reason]) for reason in DROP_REASONS)


def _descriptors(shot: Snapshot) -> Values:
    yield ("received",), shot.counts.descriptors_received
    yield ("passed",), shot.counts.descriptors_passed


def _devices(shot: Snapshot) -> Values:
    facts = shot.facts
    return () if facts.devices is None else _one(len(facts.devices) + len(facts.hidden))


def _capabilities(shot: Snapshot) -> Values:
    on = shot.facts.capabilities
    return () if on is None else (((name,), name in on) for name in sorted(DANGEROUS))


def _status(shot: Snapshot) -> Values:
    now = shot.history.status if shot.history.status in STATUSES else "other"
    return (((status,), status == now) for status in STATUSES)


def _vfio(shot: Snapshot) -> Values:
    progress = shot.history.progress
    return () if progress is None or progress.vfio is None else _one(progress.vfio)


def _forecasts(shot: Snapshot) -> Values:
    known = (forecast for forecast in shot.forecasts if forecast.passes is not Passes.UNKNOWN)
    return (((forecast.way.replace(" ", "-"),), forecast.passes is not Passes.NO) for forecast in known)


_G, _C = GaugeMetricFamily, CounterMetricFamily

NUMBERS = (
    Family("upstream_up", _G, "1 while there is a link to QEMU.", lambda s: _one(s.link.up)),
    Family("upstream_answers", _G, "1 while QEMU answers the heartbeat; absent where it cannot be asked.",
           lambda s: () if s.qemu.pulse is Pulse.UNKNOWN else _one(s.qemu.pulse is not Pulse.SILENT)),
    Family("upstream_connects", _C, "Links to QEMU that came up.", lambda s: _one(s.counts.links)),
    Family("clients", _G, "Clients connected now.", lambda s: _one(len(s.clients))),
    Family("client_connects", _C, "Clients that have connected.", lambda s: _one(s.counts.clients)),
    Family("faults", _C, "Exceptions of the guard itself: each ended one request, client or link, and is in the log.",
           lambda s: (((where,), count) for where, count in tuple(s.counts.faults.items())), ("where",)),
    Family("client_drops", _C, "Clients that were disconnected and did not end the conversation.", _drops, ("reason",)),
    Family("commands", _C, "Commands by what became of them: passed unjudged, or judged and allowed, warned of or "
           "refused.", _commands, ("outcome",)),
    Family("decisions", _C, "What rules found, by rule, verdict and mode; a judged command that no rule minds counts "
           "as rule none.", lambda s: tuple(s.counts.decisions.items()), ("rule", "verdict", "mode")),
    Family("drifts", _C, "Changes that no command through the guard has made.", lambda s: _one(s.counts.drifts)),
    Family("events", _C, "Events of QEMU.", lambda s: _one(s.counts.events)),
    Family("parse_errors", _C, "Messages of clients that are no QMP.", lambda s: _one(s.counts.malformed)),
    Family("fds", _C, "File descriptors that clients sent, and those passed to QEMU.", _descriptors, ("direction",)),
    Family("override_active", _G, "1 while an override lets a rule warn, or all rules.",
           lambda s: _one(bool(s.judging.overrides))),
    Family("vfio_devices", _G, "VFIO devices as last seen, hidden ones too; absent until QEMU has been looked at.",
           _devices),
    Family("capability_on", _G, "1 while a dangerous migration capability is on, as last seen.", _capabilities,
           ("capability",)),
    Family("may_migrate", _G, "1 if a migration of that way would be let through; as-it-stands-now is a migrate with "
           "the capabilities that are on. Absent while that is unknown.", _forecasts, ("way",)),
    Family("migration_status", _G, "1 for the status of the last or present migration, 0 for every other.", _status,
           ("status",)),
    Family("vfio_transferred_bytes", _G, "The VFIO devices' share of the last or present migration. QEMU begins at 0 "
           "with each; absent where it tells none.", _vfio),
)  # fmt: skip

TIMES = (
    Times("survey_seconds", "How long QEMU took to answer what a judged command needed to know.", lambda s: s.surveys),
    Times("command_seconds", "How long judged commands took from their arrival until they were answered.",
          lambda s: s.counts.commands),
)  # fmt: skip

TOTALS = (
    Total("reloads", "result", "Reloads of the configuration: done, or failed and so without effect.",
          lambda u: ((("done",), u.reloads), (("failed",), u.failed_reloads))),
    Total("lines_lost", "where", "Lines that could not be written to log, audit, traffic file or journal; "
          "absent where nothing is to be written.", lambda u: (((where,), lines) for where, lines in u.lost.items())),
)  # fmt: skip

ADMIN_DROPS = Total(
    "admin_drops", "reason", "Connections that the admin interface closed, and requests that it could not take.",
    lambda _: (),
)  # fmt: skip

BUILD = "The version of qmpguard; 1."


#: VMs of one step of the encoding: some hundred samples, a millisecond
FEW = 16


class Meter(Collector):
    """Answers Prometheus from snapshots, and from what the process and the admin interface itself count."""

    def __init__(
        self,
        shots: Callable[[], Sequence[Snapshot]],
        upkeep: Callable[[], Upkeep],
        drops: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._shots = shots
        self._upkeep = upkeep
        self._drops = drops

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every VM."""
        yield from self._of_process()
        shots = self._shots()
        for family in _FAMILIES:
            yield family(shots)

    def encoded(self, encode: Encoder, vms: Sequence[VmState]) -> Iterator[bytes]:
        """Yield the same, encoded, as steps of a millisecond."""
        shots = []
        for vm in tuple(vms):
            shots.append(vm.snapshot())
            yield b""
        for metric in self._of_process():
            yield lines(encode, metric)
        for family in _FAMILIES:
            yield lines(encode, family(shots[:FEW]))
            for first in range(FEW, len(shots), FEW):
                yield lines(encode, family(shots[first : first + FEW]), head=False)
        yield encode(Few())

    def _of_process(self) -> Iterator[Metric]:
        yield InfoMetricFamily("qmpguard_build", BUILD, {"version": __version__})
        upkeep = self._upkeep()
        for total in TOTALS:
            yield _total(total, total.read(upkeep))
        yield _total(ADMIN_DROPS, (((reason,), count) for reason, count in self._drops().items()))
        yield from process.metrics()


def _total(total: Total, values: Values) -> Metric:
    counter = CounterMetricFamily(f"qmpguard_{total.name}", total.meaning, labels=(total.label,))
    for labels, value in values:
        counter.add_metric(labels, float(value))
    return counter


def _number(number: Family, shots: Sequence[Snapshot]) -> Metric:
    family = number.kind(f"qmpguard_{number.name}", number.meaning, labels=("vm", *number.labels))
    for shot in shots:
        for labels, value in number.read(shot):
            family.add_metric((shot.name, *labels), float(value))
    return family


def _times(times: Times, shots: Sequence[Snapshot]) -> Metric:
    histogram = HistogramMetricFamily(f"qmpguard_{times.name}", times.meaning, labels=("vm",))
    for shot in shots:
        _add(histogram, shot.name, times.read(shot))
    return histogram


_FAMILIES: tuple[Callable[[Sequence[Snapshot]], Metric], ...] = (
    *(partial(_number, number) for number in NUMBERS),
    *(partial(_times, times) for times in TIMES),
)


def _add(family: HistogramMetricFamily, vm: str, durations: Durations) -> None:
    total, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), durations.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    family.add_metric((vm,), buckets, durations.total)


def documentation() -> str:
    """Return docs/metrics.md."""
    rows = [("qmpguard_build_info", "gauge", "version", BUILD)]
    totals = (*TOTALS, ADMIN_DROPS)
    rows += [(f"qmpguard_{total.name}_total", "counter", total.label, total.meaning) for total in totals]
    rows += [(*_series("qmpguard", number), ", ".join(("vm", *number.labels)), number.meaning) for number in NUMBERS]
    rows += [(f"qmpguard_{times.name}", "histogram", "vm", times.meaning) for times in TIMES]
    rows += [(*_series("process", measure), "", measure.meaning) for measure in process.MEASURES]
    lines = [f"| `{name}` | {kind} | {labels} | {meaning} |" for name, kind, labels, meaning in rows]
    return "\n".join([_HEAD, *lines, _TAIL])


def _series(prefix: str, one: Family | process.Measure) -> tuple[str, str]:
    """Return the name of a series, and its kind."""
    counter = one.kind is CounterMetricFamily
    return f"{prefix}_{one.name}{'_total' if counter else ''}", "counter" if counter else "gauge"


_HEAD = """# Metrics

`GET /metrics` of the admin interface answers in Prometheus' text format, or in OpenMetrics if the scraper asks for it.
It is answered from memory: a scrape sends QEMU nothing, and a QEMU that hangs does not delay it. The `process_*`
metrics are about the guard's own process.

<!-- written by `make docs` from qmpguard/admin/metrics.py -->

| metric | kind | labels | meaning |
|---|---|---|---|"""

_TAIL = f"""
Label values are few and fixed: rules, verdicts and modes are those of `qmpguard rules`; `reason` is one of
{", ".join(f"`{reason}`" for reason in DROP_REASONS)},
for `qmpguard_admin_drops_total` one of {", ".join(f"`{drop.value}`" for drop in Drop)};
`status` is QEMU's MigrationStatus, or `other` for one that this version does not know. No label holds what a client
sent.

What QEMU would have to be asked for is as old as the last look: at most 30 s, while a migration runs one second.
"""


if __name__ == "__main__":
    sys.stdout.write(documentation())
