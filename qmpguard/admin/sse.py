"""The feed of all event streams. A message is built when a stream takes it, in small steps."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from qmpguard.admin import serialize
from qmpguard.admin.event_stream import EventStream, FellBehindError, Ring
from qmpguard.admin.faults import Drop, Faults
from qmpguard.admin.slices import Slices
from qmpguard.admin.state_cache import StateCache, encode
from qmpguard.record import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qmpguard.admin.state_cache import VmState
    from qmpguard.record import Entry, Journal, Run

#: seconds between two comparisons of all snapshots while a stream is open, and the least between any two
POLL_INTERVAL, MIN_POLL_INTERVAL = 1.0, 0.1
#: encoded entries that are cached; all live streams take the same ones
MAX_ENCODED = 256
KEEP_ALIVE = b": alive\n\n"


class EventFeed:
    """The open streams. While there are any, it listens to the journals and compares the snapshots."""

    def __init__(
        self, vms: Callable[[], Sequence[VmState]], run: Run, slices: Slices | None = None, faults: Faults | None = None
    ) -> None:
        self.slices = slices or Slices()
        self.states = StateCache(run)
        self._faults = faults or Faults()
        self._vms = vms
        self._run = run
        self._streams: set[EventStream] = set()
        self._vms_by_name: dict[str, VmState] = {}
        self._subscriptions: dict[Journal, tuple[tuple[Ring, Ring], Callable[[], None]]] = {}
        self._ring_ids = count(step=2)
        self._names: tuple[str, ...] = ()
        self._all_due = False  # the next refresh compares all VMs, since some are new
        self._last = 0  # the number of the last entry
        self._changed = asyncio.Event()
        self._sent_states: dict[str, bytes] = {}  # the last state of each VM, which every stream gets
        self._dirty: set[str] = set()  # VMs with new entries since the last refresh
        self._encoded: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._streams)

    async def run(self) -> None:
        """Compare states until cancelled: of a VM with a new entry soon, of all VMs once a second."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            if not self._streams:
                await self._changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(due, clock())):
                    await self._changed.wait()
            self._changed.clear()
            whole = clock() >= due
            await self._refresh(whole=whole)
            due = clock() + POLL_INTERVAL if whole else due
            await asyncio.sleep(MIN_POLL_INTERVAL)

    @contextmanager
    def stream(
        self, *, since: int | None, vm: str | None, kinds: frozenset[str], drop: Callable[[], None]
    ) -> Iterator[EventStream]:
        """Open a stream. `next` returns the entries after ``since``, then the states of the VMs, then each change."""
        if not self._streams:
            self._sent_states.clear()  # they are old: no refresh ran without a stream
        self._update_subscriptions(anyone=True)
        self._last = self._run.last
        stream = EventStream(vm, kinds, self._run.last, drop)
        self._streams.add(stream)
        if since is not None:
            stream.backlog.begin(self._rings_of(stream), since)
        self._changed.set()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            self._update_subscriptions()

    async def next(self, stream: EventStream, keep_alive: float) -> bytes | None:
        """Return the next messages; after ``keep_alive`` seconds without one a comment. None: the stream has ended."""
        while not stream.ended:
            stream.woken.clear()
            try:
                messages = await self.slices.slice(iter(partial(self._next_message, stream), None))
            except FellBehindError:
                self._faults.drop(Drop.FELL_BEHIND)
                stream.drop()
                return None
            if data := b"".join(messages):
                return data
            if not messages and not await _wait_woken(stream, keep_alive):
                return KEEP_ALIVE
        return None

    def close(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.end()

    # entries and states

    def _rings_of(self, stream: EventStream) -> Iterator[Ring]:
        return (ring for rings, _ in self._subscriptions.values() for ring in rings if stream.wants(ring))

    def _update_subscriptions(self, *, anyone: bool = False) -> None:
        """Listen to the journals of the present VMs while a stream is open or opening, and to no other journal."""
        vms = self._vms() if anyone or self._streams else ()
        self._vms_by_name = {one.name: one for one in vms}
        before, self._names = self._names, tuple(self._vms_by_name)
        if self._names != before:
            self.states.keep_only(self._names)
            self._sent_states = {name: self._sent_states[name] for name in self._names if name in self._sent_states}
            self._all_due = True
            for stream in self._streams:
                stream.on_vms_changed()
        journals = {one.journal for one in vms}
        for journal in journals - self._subscriptions.keys():
            self._subscribe(journal)
        for journal in self._subscriptions.keys() - journals:
            self._subscriptions.pop(journal)[1]()

    def _subscribe(self, journal: Journal) -> None:
        """Listen to a journal. Its entries since a stream was opened belong to that stream too."""
        first_id = next(self._ring_ids)
        rings = Ring(first_id, journal, events=False), Ring(first_id + 1, journal, events=True)
        self._subscriptions[journal] = rings, journal.listen(partial(self._on_entry, rings))
        for stream in self._streams:
            for ring in filter(stream.wants, rings):
                stream.backlog.join(ring)
            stream.woken.set()

    def _on_entry(self, rings: tuple[Ring, Ring], entry: Entry) -> None:
        """Called by a journal with each new entry. No exception may reach the journal."""
        try:
            self._add_entry(rings, entry)
        except Exception as error:  # noqa: BLE001 -- as above
            self._faults.fault("feed", error)
            self.close()  # the clients resume after their last entry

    def _add_entry(self, rings: tuple[Ring, Ring], entry: Entry) -> None:
        if entry.number != self._last + 1:
            self._update_subscriptions()  # a new VM has entries already: they come first
        self._last = entry.number
        ring = rings[isinstance(entry.what, Event)]
        for stream in self._streams:
            stream.on_entry(ring, entry.number)
        self._dirty.add(entry.vm)
        self._changed.set()

    async def _refresh(self, *, whole: bool) -> None:
        """Compare the states of the VMs with new entries, or of all VMs, and mark those that have changed."""
        self._update_subscriptions()
        names = self._dirty & self._vms_by_name.keys()
        self._dirty.clear()
        whole, self._all_due = whole or self._all_due, False
        steps = (self._refresh_vm(name) for name in (tuple(self._vms_by_name) if whole else names))
        while await self.slices.slice(steps):
            pass

    def _refresh_vm(self, name: str) -> bytes:
        """Mark a VM's state as changed where it differs from the last one sent. Return no output: this is a step."""
        data = self._state(name)
        if data is not None and self._sent_states.get(name) is not data:
            self._sent_states[name] = data
            for stream in self._streams:
                stream.on_state_changed(name)
        return b""

    def _state(self, name: str) -> bytes | None:
        """Return the encoded state of a VM; None where it is removed, or cannot be encoded."""
        vm = self._vms_by_name.get(name)
        try:
            return None if vm is None else self.states.of(vm)
        except Exception as error:  # noqa: BLE001 -- a fault of one VM must not affect the others
            self._faults.fault("state", error)
            return None

    # messages

    def _next_message(self, stream: EventStream) -> bytes | None:
        """Return a stream's next message; empty where the next entry's kind is not wanted; None: there is none yet."""
        if not stream.is_live and stream.backlog.past:
            return self._next_entry_message(stream) or b""
        if not stream.is_live:
            stream.go_live(self._vms_by_name)
        if stream.names_pending:
            stream.names_pending = False
            return message("vms", encode({"names": list(self._vms_by_name)}))
        stale = stream.next_stale
        if stale is not None and stream.entry_was_last:
            return self._state_message(stream, stale)
        if (data := self._next_entry_message(stream)) is not None:
            return data
        return None if stale is None else self._state_message(stream, stale)

    def _next_entry_message(self, stream: EventStream) -> bytes | None:
        entry = stream.backlog.take()
        stream.entry_was_last = entry is not None
        if entry is None:
            return None
        return self._entry_message(entry) if serialize.kind_of(entry.what) in stream.kinds else b""

    def _state_message(self, stream: EventStream, name: str) -> bytes:
        data = self._sent_states.get(name)
        if data is None and (data := self._state(name)) is not None:
            self._sent_states[name] = data
        stream.on_state_sent(name)
        stream.entry_was_last = False
        return b"" if data is None else message("vm", data)

    def _entry_message(self, entry: Entry) -> bytes:
        """Return the message of an entry. It is cached, since all live streams take it."""
        known = self._encoded.get(entry.number)
        if known is None:
            data = encode(serialize.entry(entry, self._run))
            known = message(serialize.kind_of(entry.what), data, self._run.ref(entry.number))
            self._encoded[entry.number] = known
            if len(self._encoded) > MAX_ENCODED:
                del self._encoded[next(iter(self._encoded))]
        return known


def message(event: str, data: bytes, identity: str | None = None) -> bytes:
    """Return one server-sent event (HTML, section 9.2). The JSON is one line."""
    place = "" if identity is None else f"id: {identity}\n"
    return b"%sevent: %s\ndata: %s\n\n" % (place.encode(), event.encode(), data)


async def _wait_woken(stream: EventStream, seconds: float) -> bool:
    """Return True when a stream is woken, False after ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await stream.woken.wait()
    except TimeoutError:
        return False
    return True
