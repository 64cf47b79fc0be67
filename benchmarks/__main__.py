"""Measures what the guard costs and writes docs/performance.md and docs/performance.svg; `--quick` writes nothing."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import flood, measure, plot, report
from benchmarks.rig import ROOT, WAYS
from qmpguard.demo.lab import LabUnavailable, system_qemu, version, vfio_qemu
from qmpguard.demo.qemu import Qemu


async def run(folder: Path, rounds: int, machine: str) -> report.Results:
    """Measure everything; ``rounds`` is for the cheapest measurement, the others have fewer."""
    async with Qemu(system_qemu(), folder, monitors=2 + len(WAYS)) as qemu:
        _say("what is forwarded")
        traffic = measure.traffic(qemu, rounds)
    async with Qemu(system_qemu(), folder, monitors=2) as qemu:
        _say("many clients, events, memory, start")
        crowds = measure.crowds(qemu, rounds // 6)
        fanout = measure.fanout(qemu, rounds // 4)
        memory = measure.memory(qemu, folder / "m", (1, 50, 200))
        start = measure.start(qemu, max(5, rounds // 10))
    floods = await _floods(folder, max(3, rounds // 4))
    newer, verdicts = await _newer(folder, rounds), await _verdicts(folder, rounds)
    return report.Results(machine, traffic, crowds, fanout, verdicts, memory, start, newer, floods)


async def _floods(folder: Path, rounds: int) -> list[tuple[str, float, float]]:
    _say("a flood at another VM")
    where = folder / "f"
    where.mkdir()
    async with Qemu(system_qemu(), folder, monitors=2) as qemu:
        for number, monitor in enumerate(qemu.monitors):
            (where / f"{number}.qemu").symlink_to(monitor)
        return list(flood.measure(where, rounds))


async def _newer(folder: Path, rounds: int) -> tuple[measure.Series, measure.Series] | None:
    try:
        binary = vfio_qemu()
    except LabUnavailable:
        return None
    _say("a newer QEMU")
    where = folder / "n"
    where.mkdir()
    async with Qemu(binary, where, monitors=2 + len(WAYS)) as qemu:
        return measure.short(qemu, rounds)


async def _verdicts(folder: Path, rounds: int) -> list[measure.Verdicts]:
    try:
        binary = vfio_qemu()
    except LabUnavailable as error:
        _say(f"the verdicts are left out: {error}")
        return []
    _say("verdicts")
    return [await measure.verdicts(binary, folder / f"v{n}", n, max(10, rounds // 2)) for n in (0, 1, 16)]


def _machine() -> str:
    day = datetime.now(tz=UTC).date()
    qemu = version(system_qemu()).partition("(")[0].strip()
    load = f"{os.cpu_count()} CPUs with a load of {os.getloadavg()[0]:.1f} beforehand"
    return f"{day}, Python {platform.python_version()}, {qemu}, {load}."


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _panels(traffic: measure.Traffic) -> dict[str, dict[str, float]]:
    def series(one: measure.Series) -> dict[str, float]:
        return {way: one.median(way) * 1e6 for way in report.WAYS}

    def cpu(costs: dict[str, float]) -> dict[str, float]:
        return {way: costs[way] * 1e6 for way in report.WAYS if way in costs}

    return {
        "round trip of query-status, as libvirt writes it": series(traffic.round_trip),
        "round trip of query-status, in the fewest bytes": series(traffic.least),
        "time per command, 32 in flight": series(traffic.pipelined[32]),
        "CPU time of the process between, per command": cpu(traffic.cpu),
        "CPU time of the process between, per command, 32 in flight": cpu(traffic.cpu_pipelined),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what the guard costs.")
    parser.add_argument("--quick", action="store_true", help="a minute at most; prints only")
    quick = parser.parse_args().quick
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled, and the processes here are, too
    began, machine = time.monotonic(), _machine()
    with tempfile.TemporaryDirectory(prefix="qmpguard-bench-") as folder:
        results = asyncio.run(run(Path(folder), 25 if quick else 200, machine))
    text = "\n".join(report.tables(results))
    print(text)
    if not quick:
        report.write(text, ROOT / "docs" / "performance.md")
        (ROOT / "docs" / "performance.svg").write_text(plot.svg(_panels(results.traffic), "µs"))
    _say(f"done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
