"""The latest decisions of all VMs, found from the newest backwards, in small steps."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from qmpguard.record import Decision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpguard.record import Entry, Journal


def decisions(journals: Iterable[Journal], since: int, until: int) -> Iterator[Entry | None]:
    """Yield the decisions whose number is above ``since`` and at most ``until``, newest first.

    Yields None for each entry of another kind, so that whoever asks can pause. The journals may go on meanwhile: an
    entry that has left its ring by then is missing.
    """
    heads = [(-last.number, at) for at in journals if (last := at.before(until + 1, events=False)) is not None]
    heapify(heads)
    while heads and -heads[0][0] > since:
        number, journal = -heads[0][0], heads[0][1]
        entry = journal.before(number + 1, events=False)
        yield entry if entry is not None and isinstance(entry.what, Decision) else None
        earlier = journal.before(number, events=False)
        if earlier is None:
            heappop(heads)
        else:
            heapreplace(heads, (-earlier.number, journal))
