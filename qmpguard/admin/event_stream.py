"""One event stream: its position in the journals, and the VMs whose state it has still to send.

It holds no message. Entries stay in the journals' rings until they are taken, so a slow stream needs no more memory
than a fast one. Of a VM's state only the latest is sent. Invariants:

* ``_heads`` holds each ring at most once, with a number n: every entry below n was taken or skipped, none from n on.
  ``_queued`` is the set of its rings. Entries are numbered across the process, so the ring with the least n has the
  next entry.
* An entry from before the opening that has left its ring is skipped. A later entry that has left its ring before it
  was taken is a loss. It ends the stream (`FellBehindError`), and the client may resume.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qmpguard.record import Entry, Journal


class FellBehindError(Exception):
    """An entry has left its ring before the stream took it."""


class Ring(NamedTuple):
    """One of the two rings of a journal: that of QEMU's events, or the other one. ``id`` is unique among rings."""

    id: int
    journal: Journal
    events: bool

    def after(self, number: int) -> Entry | None:
        """Return the first entry after a number."""
        return self.journal.after(number, events=self.events)


class Backlog:
    """The entries that the stream has still to take: all after number ``opened``, and earlier ones still in a ring."""

    def __init__(self, opened: int) -> None:
        self.opened = opened
        self._heads: list[tuple[int, Ring]] = []
        self._queued: set[Ring] = set()
        self._first: dict[Ring, int] = {}  # of rings with earlier entries: the number of the first later one

    def begin(self, rings: Iterable[Ring], since: int) -> None:
        """Add the earlier entries of some rings, after number ``since``. No entry is looked up yet."""
        if since < self.opened:
            self._queued.update(rings)
            self._heads = [(since + 1, ring) for ring in self._queued]
            heapify(self._heads)

    def join(self, ring: Ring) -> None:
        """Add a ring that is new since the stream was opened."""
        first = ring.after(self.opened)
        if first is not None:
            self.add(ring, first.number)

    def add(self, ring: Ring, number: int) -> None:
        """Called with the ring and the number of each new entry."""
        if ring in self._queued:
            self._first.setdefault(ring, number)
        else:
            self._queued.add(ring)
            heappush(self._heads, (number, ring))

    @property
    def past(self) -> bool:
        """Say whether entries from before the opening are still to be taken."""
        return bool(self._heads) and self._heads[0][0] <= self.opened

    def take(self) -> Entry | None:
        """Return the oldest entry that was not taken; None: there is none, or an earlier entry has left its ring.

        Raises `FellBehindError`.
        """
        if not self._heads:
            return None
        number, ring = self._heads[0]
        entry = ring.after(number - 1)
        if entry is not None and entry.number == number:
            self._advance(ring, ring.after(number))
            return entry
        if number > self.opened or self._lost(ring, entry):
            raise FellBehindError
        self._advance(ring, entry)
        return None

    def _lost(self, ring: Ring, entry: Entry | None) -> bool:
        """Say whether a ring's next entry is after the opening, but not the first one after it."""
        return entry is not None and self.opened < entry.number != self._first.get(ring, entry.number)

    def _advance(self, ring: Ring, entry: Entry | None) -> None:
        if entry is None:
            heappop(self._heads)
            self._queued.discard(ring)
        else:
            heapreplace(self._heads, (entry.number, ring))
        if entry is None or entry.number > self.opened:
            self._first.pop(ring, None)


class EventStream:
    """One stream: of one VM or all, of some kinds of entries or all. ``drop`` closes its connection at once."""

    def __init__(self, vm: str | None, kinds: frozenset[str], opened: int, drop: Callable[[], None]) -> None:
        self.vm = vm
        self.kinds = kinds
        self.backlog = Backlog(opened)
        self.drop = drop
        self.woken = asyncio.Event()
        self.is_live = False  # the earlier entries were sent
        self.names_pending = False  # the names of all VMs are to be sent
        self.entry_was_last = False  # entries and states alternate, so that neither delays the other
        self.ended = False
        self._stale: dict[str, None] = {}

    def wants(self, ring: Ring) -> bool:
        """Say whether a ring may have entries for this stream."""
        return self.vm in (None, ring.journal.vm) and (
            "event" in self.kinds if ring.events else self.kinds != {"event"}
        )

    def on_entry(self, ring: Ring, number: int) -> None:
        """Called with the ring and the number of each new entry."""
        if self.wants(ring):
            self.backlog.add(ring, number)
            self.woken.set()

    def on_state_changed(self, vm: str) -> None:
        """Called when the state of a VM has changed."""
        if self.is_live and self.vm in (None, vm):
            self._stale[vm] = None
            self.woken.set()

    def on_vms_changed(self) -> None:
        """Called when VMs were added or removed."""
        if self.is_live:
            self.names_pending = True
            self.woken.set()

    def go_live(self, names: Iterable[str]) -> None:
        """Send the names and the states of all VMs next, then each change."""
        self.is_live = self.names_pending = True
        for name in names:
            self.on_state_changed(name)

    @property
    def next_stale(self) -> str | None:
        """The VM whose state is to be sent next; None: no state has changed."""
        return next(iter(self._stale), None)

    def on_state_sent(self, vm: str) -> None:
        """Called when the present state of a VM was sent."""
        self._stale.pop(vm, None)

    def end(self) -> None:
        """End the stream."""
        self.ended = True
        self.woken.set()
