"""One stream: how far it has come in what has happened, and which VMs' states it has still to be told.

It holds no message. What has happened stays in the journals' rings until it is taken, so a stream that reads slowly
costs no more than one that reads at once, and of a state only the latest is ever told. Invariants:

* ``_heads`` holds each ring at most once, with a number that is no greater than that of its first entry that was not
  taken, and greater than that of any that was; ``_inside`` is its rings. Numbers are of the whole process, so the
  least of them comes before every entry that is still to be taken.
* What happened before the stream was opened may have left its ring: it is then skipped. What has happened since and
  has left its ring untaken is a loss, and ends the stream (`FellBehindError`): its client may resume.
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
    """One of the two rings of a journal: QEMU's events, or everything else. ``order`` is unlike any other ring's."""

    order: int
    journal: Journal
    events: bool

    def after(self, number: int) -> Entry | None:
        """Return its first entry after a number."""
        return self.journal.after(number, events=self.events)


class Backlog:
    """The entries that are still to be taken: all that came after ``opened``, and what was kept of those before it."""

    def __init__(self, opened: int) -> None:
        self.opened = opened
        self._heads: list[tuple[int, Ring]] = []
        self._inside: set[Ring] = set()
        self._first: dict[Ring, int] = {}  # of rings that still have a past: their first entry after it

    def begin(self, rings: Iterable[Ring], since: int) -> None:
        """Read the past of some rings from a number on. Nothing is looked up yet: there may be thousands of rings."""
        if since < self.opened:
            self._inside.update(rings)
            self._heads = [(since + 1, ring) for ring in self._inside]
            heapify(self._heads)

    def join(self, ring: Ring) -> None:
        """Read a ring that was not known when the stream was opened, from then on."""
        first = ring.after(self.opened)
        if first is not None:
            self.add(ring, first.number)

    def add(self, ring: Ring, number: int) -> None:
        """Called when something has happened."""
        if ring in self._inside:
            self._first.setdefault(ring, number)
        else:
            self._inside.add(ring)
            heappush(self._heads, (number, ring))

    @property
    def past(self) -> bool:
        """Say whether there is something to take that happened before the stream was opened."""
        return bool(self._heads) and self._heads[0][0] <= self.opened

    def take(self) -> Entry | None:
        """Return the oldest entry that was not taken; None: there is none, or it was of the past and is not kept.

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
        """Say whether a ring's next entry is of the present, and not the first of it."""
        return entry is not None and self.opened < entry.number != self._first.get(ring, entry.number)

    def _advance(self, ring: Ring, entry: Entry | None) -> None:
        if entry is None:
            heappop(self._heads)
            self._inside.discard(ring)
        else:
            heapreplace(self._heads, (entry.number, ring))
        if entry is None or entry.number > self.opened:
            self._first.pop(ring, None)


class EventStream:
    """One who listens: to one VM or all, to some kinds of happening or all. ``drop`` ends its connection at once."""

    def __init__(self, vm: str | None, kinds: frozenset[str], opened: int, drop: Callable[[], None]) -> None:
        self.vm = vm
        self.kinds = kinds
        self.backlog = Backlog(opened)
        self.drop = drop
        self.woken = asyncio.Event()
        self.greeted = False  # it was told the past: now come the VMs as they are, then what happens
        self.names = False  # the names of all VMs are to be told
        self.entry_was_last = False  # so that neither entries nor states keep the other ones waiting
        self.ended = False
        self._stale: dict[str, None] = {}

    def wants(self, ring: Ring) -> bool:
        """Say whether there may be entries for this stream in a ring."""
        return self.vm in (None, ring.journal.vm) and (
            "event" in self.kinds if ring.events else self.kinds != {"event"}
        )

    def happened(self, ring: Ring, number: int) -> None:
        """Called with the place of each new entry."""
        if self.wants(ring):
            self.backlog.add(ring, number)
            self.woken.set()

    def changed(self, vm: str) -> None:
        """Called when the state of a VM is another than it was."""
        if self.greeted and self.vm in (None, vm):
            self._stale[vm] = None
            self.woken.set()

    def renamed(self) -> None:
        """Called when there are other VMs than before."""
        if self.greeted:
            self.names = True
            self.woken.set()

    def greet(self, names: Iterable[str]) -> None:
        """Have it told of all VMs."""
        self.greeted = self.names = True
        for name in names:
            self.changed(name)

    @property
    def stale(self) -> str | None:
        """The VM whose state is to be told next."""
        return next(iter(self._stale), None)

    def told(self, vm: str) -> None:
        """Called when the present state of a VM was told."""
        self._stale.pop(vm, None)

    def end(self) -> None:
        """End it, with what it was told so far."""
        self.ended = True
        self.woken.set()
