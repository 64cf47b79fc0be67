"""The `process_*` metrics that every client library of Prometheus has, read from /proc/self at each scrape.

prometheus_client's own collector tells nothing where /proc/stat cannot be read, and the systemd units hide that file
from the guard (ProcSubset=pid). Names and meanings are those of its documentation.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_STAT, _FDS = Path("/proc/self/stat"), Path("/proc/self/fd")
_TICKS = os.sysconf("SC_CLK_TCK")
#: fields of /proc/self/stat (proc(5)), counted from the one behind the program's name, which may have blanks
_UTIME, _STIME, _START, _VSIZE, _RSS = 11, 12, 19, 20, 21


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process uses: seconds of CPU, bytes of memory, descriptors; ``started`` in seconds since the epoch."""

    cpu: float
    virtual: float
    resident: float
    started: float
    open_fds: float
    max_fds: float


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of the process: its name without prefix and ``_total``, its meaning, and its value."""

    name: str
    kind: type[GaugeMetricFamily | CounterMetricFamily]
    meaning: str
    read: Callable[[Usage], float]


MEASURES = (
    Measure("cpu_seconds", CounterMetricFamily, "Seconds of CPU that the process has used.", lambda u: u.cpu),
    Measure("virtual_memory_bytes", GaugeMetricFamily, "Its virtual memory.", lambda u: u.virtual),
    Measure("resident_memory_bytes", GaugeMetricFamily, "Its resident memory.", lambda u: u.resident),
    Measure("start_time_seconds", GaugeMetricFamily, "When it started, since the epoch.", lambda u: u.started),
    Measure("open_fds", GaugeMetricFamily, "File descriptors that it has open.", lambda u: u.open_fds),
    Measure("max_fds", GaugeMetricFamily, "File descriptors that it may have open.", lambda u: u.max_fds),
)


def metrics() -> Iterator[Metric]:
    """Yield the metrics of this process; none where /proc cannot be read."""
    try:
        usage = _usage()
    except OSError:
        return
    for measure in MEASURES:
        yield measure.kind(f"process_{measure.name}", measure.meaning, value=measure.read(usage))


def _usage() -> Usage:
    fields = _STAT.read_bytes().rpartition(b")")[2].split()
    return Usage(
        cpu=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS,
        virtual=float(fields[_VSIZE]),
        resident=float(int(fields[_RSS]) * resource.getpagesize()),
        started=_started(int(fields[_START]) / _TICKS),
        open_fds=_open_fds(),
        max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


@cache
def _started(after_boot: float) -> float:
    """Return when the process started: once, since a clock that is set would be a restart in Prometheus' eyes."""
    return round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot, 2)


def _open_fds() -> int:
    """Return how many descriptors are open. Before Linux 6.2 they are listed, and the list's own is among them."""
    return _FDS.stat().st_size or sum(1 for _ in _FDS.iterdir()) - 1
