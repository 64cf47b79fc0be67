"""The latest entries of all VMs, newest first, in small steps."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from qmpguard.admin.serialize import kind_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from qmpguard.record import Entry, Journal


def latest_entries(
    journals: Iterable[Journal], kinds: Collection[str], since: int, until: int
) -> Iterator[Entry | None]:
    """Yield the entries of some kinds whose number is above ``since`` and at most ``until``, newest first.

    Yields None for each entry of another kind, so that the caller can pause. The journals may grow meanwhile: an entry
    that has left its ring is missing.
    """
    rings = [(journal, events) for journal in journals for events in (False, True) if _has(kinds, events=events)]
    heads = [
        (-last.number, order, *ring)
        for order, ring in enumerate(rings)
        if (last := ring[0].before(until + 1, events=ring[1])) is not None
    ]
    heapify(heads)
    while heads and -heads[0][0] > since:
        number, order, journal, events = heads[0]
        entry = journal.before(1 - number, events=events)
        yield entry if entry is not None and kind_of(entry.what) in kinds else None
        earlier = journal.before(-number, events=events)
        if earlier is None:
            heappop(heads)
        else:
            heapreplace(heads, (-earlier.number, order, journal, events))


def _has(kinds: Collection[str], *, events: bool) -> bool:
    """Say whether a ring, that of QEMU's events or the other one, may have entries of these kinds."""
    return "event" in kinds if events else any(kind != "event" for kind in kinds)
