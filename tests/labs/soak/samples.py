"""The measurements of a soak: samples, the growth that is a fault, and the figures of each minute."""

from __future__ import annotations

from itertools import groupby
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.support.process import Process

#: MiB of growth that is no leak: buffers of the moment, and what an allocator keeps of the largest moment
MEMORY = 16.0
#: MiB for each entry of a VM's journal, which keeps 1,000 decisions and 1,000 events; 0.4 KiB were measured
ENTRY = 1.0 / 1024
#: descriptors of growth that are no leak: the clients and faults of the moment
DESCRIPTORS = 24


class Sample(NamedTuple):
    """One look at the guard.

    ``replies``: since the last look, to all clients. ``memory``: resident, in MiB. ``entries``: of all VMs' journals.
    ``worst``: the longest wait of an innocent client since the last look, in seconds.
    """

    at: float
    replies: int
    memory: float
    descriptors: int
    entries: int
    worst: float


class Minute(NamedTuple):
    """The figures of one minute.

    ``throughput``: replies in a second. ``memory``, ``descriptors``: means. ``entries``: at its end.
    ``worst``: seconds.
    """

    number: int
    throughput: float
    memory: float
    descriptors: float
    entries: int
    worst: float


def minutes(samples: Iterable[Sample]) -> list[Minute]:
    """Return the figures of each minute that has a sample."""
    found, before = [], 0.0
    for number, group in groupby(samples, lambda sample: int(max(0.0, sample.at - 0.5) // 60)):
        within = list(group)
        lasted, before = within[-1].at - before, within[-1].at
        found.append(
            Minute(
                number + 1,
                sum(sample.replies for sample in within) / max(lasted, 0.001),
                mean(sample.memory for sample in within),
                mean(sample.descriptors for sample in within),
                within[-1].entries,
                max(sample.worst for sample in within),
            )
        )
    return found


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what has grown from the first third to the last by more than it may."""
    third = len(samples) // 3
    if not third:
        return ["the soak was too short to tell growth: it needs three samples"]
    first, last = samples[:third], samples[-third:]
    return [*_memory(first, last), *_descriptors(first, last)]


def _memory(first: Sequence[Sample], last: Sequence[Sample]) -> list[str]:
    before, after = mean(s.memory for s in first), mean(s.memory for s in last)
    kept = mean(s.entries for s in last) - mean(s.entries for s in first)
    allowed = MEMORY + max(0.0, kept) * ENTRY
    told = f"memory grew from {before:.1f} to {after:.1f} MiB, with {kept:.0f} entries more in the journals"
    return [f"{told}; {allowed:.1f} MiB are allowed"] if after > before + allowed else []


def _descriptors(first: Sequence[Sample], last: Sequence[Sample]) -> list[str]:
    before, after = mean(s.descriptors for s in first), mean(s.descriptors for s in last)
    return [f"descriptors grew from {before:.0f} to {after:.0f}"] if after > before + DESCRIPTORS else []


def table(rows: Iterable[Minute]) -> str:
    """Return the figures as a table, a line for each minute."""
    lines = ["minute  replies/s  memory MiB  descriptors  journal entries  worst wait of an innocent client"]
    lines += [
        f"{m.number:6d}  {m.throughput:9.0f}  {m.memory:10.1f}  {m.descriptors:11.0f}  {m.entries:15d}"
        f"  {m.worst * 1e3:8.0f} ms"
        for m in rows
    ]
    return "\n".join(lines)


def panels(rows: Sequence[Minute]) -> dict[str, list[float]]:
    """Return the series of the plot by their titles."""
    return {
        "replies in a second": [m.throughput for m in rows],
        "the guard's memory (Rss), MiB": [m.memory for m in rows],
        "the guard's descriptors": [m.descriptors for m in rows],
        "entries of the journals": [float(m.entries) for m in rows],
        "worst wait of an innocent client, ms": [m.worst * 1e3 for m in rows],
    }


def look(guard: Process, at: float, replies: int, entries: int, worst: float) -> Sample:
    """Return a sample of a running guard."""
    return Sample(at, replies, guard.memory, guard.descriptors, entries, worst)
