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
    yield Row("round trip, guard / direct", traffic.round_trip.ratio(GUARD, DIRECT), 1.45, 1.25)
    yield Row("round trip, guard / socat", traffic.round_trip.ratio(GUARD, SOCAT), 1.30, 1.15)
    yield Row("round trip, guard / qemu.qmp relay", traffic.round_trip.ratio(GUARD, RELAY), 0.70, 0.55)
    yield Row("round trip, guard / bare asyncio relay", traffic.round_trip.ratio(GUARD, BARE))
    yield Row("CPU per command, guard / qemu.qmp relay", cpu[GUARD] / cpu[RELAY], 0.35, 0.20)
    yield Row("CPU per command, guard / bare asyncio relay", cpu[GUARD] / cpu[BARE])
    yield Row("CPU per command, 32 in flight, guard / bare asyncio relay", deep[GUARD] / deep[BARE])
    for depth, series in traffic.pipelined.items():
        throughput = series.ratio(DIRECT, GUARD)
        yield Row(f"throughput, {depth} in flight, guard / direct", throughput, 1.00, 1.10, least=True)
        yield Row(f"… both with out-of-band, {depth} in flight", series.ratio(DIRECT_OOB, GUARD_OOB))
    yield Row("`query-qmp-schema`, guard / direct", traffic.schema.ratio(GUARD, DIRECT), 1.05, 1.02)
    yield Row("throughput, 8 clients / 1 client", results.crowds.ratio("1", "8"))
    yield Row("throughput, 64 clients / 1 client", results.crowds.ratio("1", "64"), 0.95, 1.00, least=True)
    yield Row("an event to all of 64 clients", results.fanout.seconds * 1e3, unit=" ms")
    yield Row("CPU per event and client", results.fanout.cpu * 1e6, unit=" µs")
    for verdicts in results.verdicts:
        yield from _verdicts(verdicts)
    yield from _memory(results.memory)
    yield Row("start to first greeting", results.start.greeting, 0.30, 0.15, " s")
    yield Row("… of it, starting Python at all", results.start.python, unit=" s")
    yield Row("… of it, importing (`-X importtime`)", results.start.imports, unit=" s")


def _verdicts(one: Verdicts) -> Iterator[Row]:
    with_devices = f"{one.devices} VFIO device{'' if one.devices == 1 else 's'}"
    if one.refused is not None:
        target, stretch = (20.0, 12.0) if one.devices == 1 else (None, None)
        yield Row(f"`migrate` refused, {with_devices}", one.refused, target, stretch, " rt")
    target, stretch = (14.0, 8.0) if one.devices == 0 else (None, None)
    yield Row(f"`migrate` allowed, {with_devices}", one.allowed, target, stretch, " rt")
    yield Row(f"… QEMU's own answer to it, {with_devices}", one.qemu, unit=" rt")
    yield Row(f"… the survey's {one.questions} queries in {one.bursts} bursts, asked directly", one.burst, unit=" rt")


def _memory(memory: Memory) -> Iterator[Row]:
    sizes = memory.sizes
    one, some, most = sorted(sizes)
    yield Row("memory with one VM (Rss)", sizes[one]["Rss"], 32.0, 24.0, " MiB")
    yield Row("memory with one VM (Pss)", sizes[one]["Pss"], unit=" MiB")
    # not from the first on: what reading QEMU's schema has left free is used up by the next ones
    further = (sizes[most]["Rss"] - sizes[some]["Rss"]) / (most - some)
    yield Row("memory for each further VM", further, 0.3, 0.1, " MiB")
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
