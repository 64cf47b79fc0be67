"""What was measured, as text: beside the targets, and as they are. The plot is in `plot`."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import DIRECT, DIRECT_OOB, GUARD, GUARD_OOB, Fanout, Memory, Series, Start, Traffic, Verdicts

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"
RELAY, SOCAT, BARE = "qemu.qmp relay", "socat", "bare asyncio relay"
WAYS = (DIRECT, DIRECT_OOB, SOCAT, BARE, GUARD, GUARD_OOB, RELAY)


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a run has measured; no verdicts where there is no QEMU with a VFIO device."""

    machine: str
    traffic: Traffic
    crowds: Series
    fanout: Fanout
    verdicts: Sequence[Verdicts]
    memory: Memory
    start: Start
    newer: tuple[Series, Series] | None  # round trips at a QEMU with vfio-user-pci
    flood: Sequence[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """A result beside what it should be: at most, or with ``least`` at least."""

    measure: str
    value: float
    target: float | None = None
    stretch: float | None = None
    unit: str = ""
    least: bool = False

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        return (self.measure, _number(self.value, self.unit), self._goal(self.target), self._goal(self.stretch))

    def _goal(self, goal: float | None) -> str:
        if goal is None:
            return ""
        met = operator.ge(self.value, goal) if self.least else operator.le(self.value, goal)
        return f"{'≥' if self.least else '≤'} {goal:g}{self.unit} {'✓' if met else '✗'}"


def rows(results: Results) -> Iterator[Row]:
    """Yield the results that have targets, and those without that belong to them."""
    traffic, cpu, deep = results.traffic, results.traffic.cpu, results.traffic.cpu_pipelined
    yield from _trips("round trip, libvirt's bytes", traffic.round_trip, (1.15, 1.05), (0.98, 0.92))
    yield Row("… median of single ones, guard / direct", traffic.single.quotient(GUARD, DIRECT), 1.02, 0.97)
    yield Row("… median of single ones, guard / socat", traffic.single.quotient(GUARD, SOCAT), 0.96, 0.90)
    yield Row("… 99 of 100 single ones, guard / direct", traffic.single.p99(GUARD) / traffic.single.p99(DIRECT))
    yield from _trips("round trip, least bytes", traffic.least, (1.45, 1.30), (None, None))
    yield Row("… guard / qemu.qmp relay", traffic.least.ratio(GUARD, RELAY), 0.62, 0.55)
    yield Row("… median of single ones, guard / direct", traffic.single_least.quotient(GUARD, DIRECT))
    if results.newer is not None:
        yield from _trips("QEMU 11.1: round trip, libvirt's bytes", results.newer[0], (1.15, 1.05), (0.98, 0.92))
        yield from _trips("QEMU 11.1: round trip, least bytes", results.newer[1], (1.45, 1.30), (None, None))
    yield Row("CPU per command, guard / qemu.qmp relay", cpu[GUARD] / cpu[RELAY])
    yield Row("CPU per command, guard / bare asyncio relay", cpu[GUARD] / cpu[BARE], 1.6, 1.35)
    yield Row("CPU per command, 32 in flight, guard / bare asyncio relay", deep[GUARD] / deep[BARE])
    for depth, series in traffic.pipelined.items():
        throughput = series.ratio(DIRECT, GUARD)
        yield Row(f"throughput, {depth} in flight, guard / direct", throughput, 1.00, 1.10, least=True)
        yield Row(f"… both with out-of-band, {depth} in flight", series.ratio(DIRECT_OOB, GUARD_OOB))
    yield Row("`query-qmp-schema`, guard / direct", traffic.schema.ratio(GUARD, DIRECT), 1.03, 1.00)
    yield Row("throughput, 8 clients / 1 client", results.crowds.ratio("1", "8"))
    yield Row("throughput, 64 clients / 1 client", results.crowds.ratio("1", "64"), 0.95, 1.00, least=True)
    yield Row("an event to all of 64 clients", results.fanout.seconds * 1e3, unit=" ms")
    yield Row("CPU per event and client", results.fanout.cpu * 1e6, unit=" µs")
    for junk, worst, middle in results.flood:
        yield Row(f"another VM's worst round trip while `{junk}` floods, quiet = 1", worst, 3.0, 2.0)
        yield Row("… its median round trip, quiet = 1", middle)
    for verdicts in results.verdicts:
        yield from _verdicts(verdicts)
    yield from _memory(results.memory)
    yield Row("start to first greeting", results.start.greeting, 0.15, 0.12, " s")
    yield Row("… of it, starting Python at all", results.start.python, unit=" s")
    yield Row("… of it, importing (`-X importtime`)", results.start.imports, unit=" s")


def _trips(
    name: str, series: Series, direct: tuple[float, float], socat: tuple[float | None, float | None]
) -> Iterator[Row]:
    yield Row(f"{name}, guard / direct", series.ratio(GUARD, DIRECT), *direct)
    yield Row("… guard / socat", series.ratio(GUARD, SOCAT), *socat)


def _verdicts(one: Verdicts) -> Iterator[Row]:
    with_devices = f"{one.devices} VFIO device{'' if one.devices == 1 else 's'}"
    if one.refused is not None and one.cpu_refused is not None:
        target, stretch = {1: (9.5, 8.0), 16: (14.0, 10.0)}.get(one.devices, (None, None))
        yield Row(f"`migrate` refused, {with_devices}", one.refused, target, stretch, " rt")
        yield Row("… the guard's CPU time for it", one.cpu_refused * 1e3, unit=" ms")
    target, stretch = {0: (7.0, 5.5), 16: (20.0, 14.0)}.get(one.devices, (None, None))
    yield Row(f"`migrate` allowed, {with_devices}", one.allowed, target, stretch, " rt")
    yield Row("… the guard's CPU time for it", one.cpu_allowed * 1e3, unit=" ms")
    yield Row(f"… QEMU's own answer to it, {with_devices}", one.qemu, unit=" rt")
    yield Row(f"… the survey's {one.questions} queries in {one.bursts} bursts, asked directly", one.burst, unit=" rt")


def _memory(memory: Memory) -> Iterator[Row]:
    sizes = memory.sizes
    one, some, most = sorted(sizes)
    yield Row("memory with one VM (Rss)", sizes[one]["Rss"], 24.0, 21.0, " MiB")
    yield Row("memory with one VM (Pss)", sizes[one]["Pss"], unit=" MiB")
    # not from the first on: what reading QEMU's schema has left free is used up by the next ones
    further = (sizes[most]["Rss"] - sizes[some]["Rss"]) / (most - some)
    yield Row("memory for each further VM", further, 0.1, 0.06, " MiB")
    for count in (some, most):
        yield Row(f"memory with {count} VMs (Rss)", sizes[count]["Rss"], unit=" MiB")


def tables(results: Results) -> Iterator[str]:
    """Yield the lines of the tables, as Markdown."""
    yield from (results.machine, "")
    yield from _table(("measure", "result", "target", "stretch"), [row.cells() for row in rows(results)])
    yield ""
    yield from _table(("medians", *WAYS), list(_medians(results)))
    if results.verdicts:
        trips = ", ".join(f"{_number(v.round_trip * 1e6, ' µs')} with {v.devices}" for v in results.verdicts)
        yield from ("", f"`rt` is a direct round trip of `query-status` at the same QEMU: {trips} VFIO devices.")


def _medians(results: Results) -> Iterator[tuple[str, ...]]:
    traffic = results.traffic

    def line(name: str, series: Series, factor: float, unit: str) -> tuple[str, ...]:
        return (name, *(_number(series.median(way) * factor, unit) for way in WAYS))

    def cpu(name: str, costs: dict[str, float]) -> tuple[str, ...]:
        return (name, *(_number(costs[way] * 1e6, " µs") if way in costs else "" for way in WAYS))

    yield line("round trip of `query-status`", traffic.round_trip, 1e6, " µs")
    yield cpu("… CPU of the process between", traffic.cpu)
    yield line("… 99 of 100 single ones below", Series({w: [traffic.single.p99(w)] for w in WAYS}), 1e6, " µs")
    yield line("round trip, least bytes", traffic.least, 1e6, " µs")
    yield line("… 99 of 100 single ones below", Series({w: [traffic.single_least.p99(w)] for w in WAYS}), 1e6, " µs")
    if results.newer is not None:
        yield line("QEMU 11.1: round trip of `query-status`", results.newer[0], 1e6, " µs")
        yield line("QEMU 11.1: round trip, least bytes", results.newer[1], 1e6, " µs")
    for depth, series in traffic.pipelined.items():
        yield line(f"per command, {depth} in flight", series, 1e6, " µs")
    yield cpu("… CPU of the process between, 32 in flight", traffic.cpu_pipelined)
    yield line("`query-qmp-schema`", traffic.schema, 1e3, " ms")
    alone = {str(n): results.crowds.median(str(n)) * 1e6 for n in (1, 8, 64)}
    for count, value in alone.items():
        cells = {GUARD: _number(value, " µs")}
        yield (
            f"per command, {count} client{'' if count == '1' else 's'} with 8 in flight",
            *(cells.get(way, "") for way in WAYS),
        )


def _number(value: float, unit: str) -> str:
    return f"{value:.3g}{unit}" if value < 100 else f"{value:.0f}{unit}"


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    yield from (line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, lines))


def write(text: str, path: Path) -> None:
    """Put text between the two markers of a file, which has them."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
