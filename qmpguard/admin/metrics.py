"""The metrics: one table, from which `/metrics` and docs/metrics.md are generated.

Every label has few values: rules, modes, statuses and reasons that this program knows; never a text from a client.
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
from qmpguard.admin.exposition import Encoder, MetricGroup, lines
from qmpguard.admin.faults import Drop
from qmpguard.policy.forecast import Passes
from qmpguard.policy.migration import DANGEROUS
from qmpguard.proxy.state.counters import BOUNDS, DROP_REASONS, Durations, Upkeep
from qmpguard.proxy.state.snapshot import Pulse, Snapshot
from qmpguard.version import __version__

if TYPE_CHECKING:
    from qmpguard.admin.state_cache import VmState

Values: TypeAlias = Iterable[tuple[tuple[str, ...], float]]

#: QEMU's MigrationStatus (qapi/migration.json), and "other" for statuses of later versions
STATUSES = (
    "none", "setup", "cancelling", "cancelled", "active", "postcopy-device", "postcopy-active", "postcopy-paused",
    "postcopy-recover-setup", "postcopy-recover", "completed", "failed", "failing", "colo", "pre-switchover", "device",
    "wait-unplug", "other",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VmMetric:
    """A gauge or a counter of each VM. ``name`` is without prefix and ``_total``, ``labels`` without ``vm``."""

    name: str
    kind: type[GaugeMetricFamily | CounterMetricFamily]
    meaning: str
    read: Callable[[Snapshot], Values]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessCounter:
    """A counter of the process, with one label. ``name`` is without prefix and ``_total``."""

    name: str
    label: str
    meaning: str
    read: Callable[[Upkeep], Values]


@dataclass(frozen=True, slots=True)
class SecondsHistogram:
    """A histogram of seconds for each VM."""

    name: str
    meaning: str
    read: Callable[[Snapshot], Durations]


def _single(value: float) -> Values:
    return (((), value),)


def _commands(snapshot: Snapshot) -> Values:
    counts = snapshot.counts
    yield ("passed",), counts.passed
    yield ("allowed",), counts.allowed
    yield ("warned",), sum(n for (_, verdict, _), n in counts.decisions.items() if verdict == "warned")
    yield ("refused",), counts.refused


def _drops(snapshot: Snapshot) -> Values:
    return (((reason,), snapshot.counts.drops[reason]) for reason in DROP_REASONS)


def _descriptors(snapshot: Snapshot) -> Values:
    yield ("received",), snapshot.counts.descriptors_received
    yield ("passed",), snapshot.counts.descriptors_passed


def _devices(snapshot: Snapshot) -> Values:
    facts = snapshot.facts
    return () if facts.devices is None else _single(len(facts.devices) + len(facts.hidden))


def _capabilities(snapshot: Snapshot) -> Values:
    on = snapshot.facts.capabilities
    return () if on is None else (((name,), name in on) for name in sorted(DANGEROUS))


def _status(snapshot: Snapshot) -> Values:
    now = snapshot.history.status if snapshot.history.status in STATUSES else "other"
    return (((status,), status == now) for status in STATUSES)


def _vfio(snapshot: Snapshot) -> Values:
    progress = snapshot.history.progress
    return () if progress is None or progress.vfio is None else _single(progress.vfio)


def _forecasts(snapshot: Snapshot) -> Values:
    known = (forecast for forecast in snapshot.forecasts if forecast.passes is not Passes.UNKNOWN)
    return (((forecast.way.replace(" ", "-"),), forecast.passes is not Passes.NO) for forecast in known)


_G, _C = GaugeMetricFamily, CounterMetricFamily

VM_METRICS = (
    VmMetric("upstream_up", _G, "1 while there is a link to QEMU.", lambda s: _single(s.link.up)),
    VmMetric("upstream_answers", _G, "1 while QEMU answers the heartbeat; absent without a link or out-of-band.",
             lambda s: () if s.qemu.pulse is Pulse.UNKNOWN else _single(s.qemu.pulse is not Pulse.SILENT)),
    VmMetric("upstream_connects", _C, "Links to QEMU that came up.", lambda s: _single(s.counts.links)),
    VmMetric("clients", _G, "Clients connected now.", lambda s: _single(len(s.clients))),
    VmMetric("client_connects", _C, "Clients that have connected.", lambda s: _single(s.counts.clients)),
    VmMetric("faults", _C, "Exceptions of the guard itself. Each ended one request, client or link, and is in the log.",
             lambda s: (((where,), count) for where, count in tuple(s.counts.faults.items())), ("where",)),
    VmMetric("client_drops", _C, "Clients that the guard disconnected.", _drops, ("reason",)),
    VmMetric("commands", _C, "Commands by outcome: passed unjudged, or judged and allowed, warned of or refused.",
             _commands, ("outcome",)),
    VmMetric("decisions", _C, "Findings of rules by rule, verdict and mode. A judged command without a finding counts "
             "as rule none.", lambda s: tuple(s.counts.decisions.items()), ("rule", "verdict", "mode")),
    VmMetric("drifts", _C, "Changes that no command through the guard has made.", lambda s: _single(s.counts.drifts)),
    VmMetric("events", _C, "Events of QEMU.", lambda s: _single(s.counts.events)),
    VmMetric("parse_errors", _C, "Messages of clients that are not QMP.", lambda s: _single(s.counts.malformed)),
    VmMetric("fds", _C, "File descriptors that clients sent, and those passed to QEMU.", _descriptors, ("direction",)),
    VmMetric("override_active", _G, "1 while an override lets a rule warn, or all rules.",
             lambda s: _single(bool(s.judging.overrides))),
    VmMetric("vfio_devices", _G, "VFIO devices as last seen, with hidden ones; absent before the first query of QEMU.",
             _devices),
    VmMetric("capability_on", _G, "1 while a dangerous migration capability is on, as last seen.", _capabilities,
             ("capability",)),
    VmMetric("may_migrate", _G, "1 if a migration of this way would pass; as-it-stands-now is a migrate with the "
             "capabilities that are on. Absent while that is unknown.", _forecasts, ("way",)),
    VmMetric("migration_status", _G, "1 for the status of the last or present migration, 0 for every other.", _status,
             ("status",)),
    VmMetric("vfio_transferred_bytes", _G, "Bytes that the VFIO devices have transferred in the last or present "
             "migration. QEMU begins at 0 with each migration; absent where QEMU does not report them.", _vfio),
)  # fmt: skip

HISTOGRAMS = (
    SecondsHistogram("survey_seconds", "Seconds that QEMU took to answer the survey for a judged command.",
                     lambda s: s.surveys),
    SecondsHistogram("command_seconds", "Seconds from the arrival of a judged command to its answer.",
                     lambda s: s.counts.commands),
)  # fmt: skip

PROCESS_COUNTERS = (
    ProcessCounter("reloads", "result", "Reloads of the configuration: done, or failed and so without effect.",
                   lambda u: ((("done",), u.reloads), (("failed",), u.failed_reloads))),
    ProcessCounter("lines_lost", "where", "Lines that could not be written to log, audit, traffic file or journal; "
                   "absent for an output that is not configured.",
                   lambda u: (((where,), lines) for where, lines in u.lost.items())),
)  # fmt: skip

ADMIN_DROPS = ProcessCounter(
    "admin_drops", "reason", "Connections that the admin interface closed, and requests that it could not serve.",
    lambda _: (),
)  # fmt: skip

BUILD = "The version of qmpguard; 1."


#: VMs of one step of the encoding: some hundred samples, a millisecond
VMS_PER_STEP = 16


class MetricsCollector(Collector):
    """Collects the metrics from snapshots, and from the counters of the process and of the admin interface."""

    def __init__(
        self,
        snapshots: Callable[[], Sequence[Snapshot]],
        upkeep: Callable[[], Upkeep],
        drops: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._snapshots = snapshots
        self._upkeep = upkeep
        self._drops = drops

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every VM."""
        yield from self._of_process()
        snapshots = self._snapshots()
        for family in _FAMILIES:
            yield family(snapshots)

    def encode_in_steps(self, encode: Encoder, vms: Sequence[VmState]) -> Iterator[bytes]:
        """Yield the encoded metrics, in steps of a millisecond."""
        snapshots = []
        for vm in tuple(vms):
            snapshots.append(vm.snapshot())
            yield b""
        for metric in self._of_process():
            yield lines(encode, metric)
        for family in _FAMILIES:
            yield lines(encode, family(snapshots[:VMS_PER_STEP]))
            for first in range(VMS_PER_STEP, len(snapshots), VMS_PER_STEP):
                yield lines(encode, family(snapshots[first : first + VMS_PER_STEP]), head=False)
        yield encode(MetricGroup())

    def _of_process(self) -> Iterator[Metric]:
        yield InfoMetricFamily("qmpguard_build", BUILD, {"version": __version__})
        upkeep = self._upkeep()
        for total in PROCESS_COUNTERS:
            yield _process_counter(total, total.read(upkeep))
        yield _process_counter(ADMIN_DROPS, (((reason,), count) for reason, count in self._drops().items()))
        yield from process.metrics()


def _process_counter(total: ProcessCounter, values: Values) -> Metric:
    counter = CounterMetricFamily(f"qmpguard_{total.name}", total.meaning, labels=(total.label,))
    for labels, value in values:
        counter.add_metric(labels, float(value))
    return counter


def _vm_metric(metric: VmMetric, snapshots: Sequence[Snapshot]) -> Metric:
    family = metric.kind(f"qmpguard_{metric.name}", metric.meaning, labels=("vm", *metric.labels))
    for snapshot in snapshots:
        for labels, value in metric.read(snapshot):
            family.add_metric((snapshot.name, *labels), float(value))
    return family


def _histogram(metric: SecondsHistogram, snapshots: Sequence[Snapshot]) -> Metric:
    family = HistogramMetricFamily(f"qmpguard_{metric.name}", metric.meaning, labels=("vm",))
    for snapshot in snapshots:
        _add(family, snapshot.name, metric.read(snapshot))
    return family


_FAMILIES: tuple[Callable[[Sequence[Snapshot]], Metric], ...] = (
    *(partial(_vm_metric, metric) for metric in VM_METRICS),
    *(partial(_histogram, metric) for metric in HISTOGRAMS),
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
    rows += [(f"qmpguard_{t.name}_total", "counter", t.label, t.meaning) for t in (*PROCESS_COUNTERS, ADMIN_DROPS)]
    rows += [(*_series("qmpguard", metric), ", ".join(("vm", *metric.labels)), metric.meaning) for metric in VM_METRICS]
    rows += [(f"qmpguard_{histogram.name}", "histogram", "vm", histogram.meaning) for histogram in HISTOGRAMS]
    rows += [(*_series("process", measure), "", measure.meaning) for measure in process.MEASURES]
    lines = [f"| `{name}` | {kind} | {labels} | {meaning} |" for name, kind, labels, meaning in rows]
    return "\n".join([_HEAD, *lines, _TAIL])


def _series(prefix: str, one: VmMetric | process.Measure) -> tuple[str, str]:
    counter = one.kind is CounterMetricFamily
    return f"{prefix}_{one.name}{'_total' if counter else ''}", "counter" if counter else "gauge"


_HEAD = """# Metrics

`GET /metrics` of the admin interface answers in Prometheus' text format, or in OpenMetrics if the scraper asks for it.
The response comes from memory: a scrape sends QEMU nothing, and a QEMU that hangs does not delay it.
The `process_*` metrics are about the guard's own process.

<!-- generated by `make docs` from qmpguard/admin/metrics.py -->

| metric | kind | labels | meaning |
|---|---|---|---|"""

_TAIL = f"""
Label values are few and fixed: rules, verdicts and modes are those of `qmpguard rules`; `reason` is one of
{", ".join(f"`{reason}`" for reason in DROP_REASONS)},
for `qmpguard_admin_drops_total` one of {", ".join(f"`{drop.value}`" for drop in Drop)};
`status` is QEMU's MigrationStatus, or `other` for one that this version does not know. No label holds a text from a
client.

Values that come from a query of QEMU are as old as the last one: at most 30 s, during a migration one second.
"""


if __name__ == "__main__":
    sys.stdout.write(documentation())
