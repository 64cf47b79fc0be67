"""What happens, for every stream: each message is made when a stream takes it, in small steps."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from qmpguard.admin import serialize
from qmpguard.admin.faults import Drop, Faults
from qmpguard.admin.slices import Slices
from qmpguard.admin.states import States, encode
from qmpguard.admin.stream import EventStream, FellBehindError, Ring
from qmpguard.record import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qmpguard.admin.states import VmState
    from qmpguard.record import Entry, Journal, Run

#: seconds between two looks at the snapshots while somebody listens, and at least between two of them
PULSE, SHORTEST = 1.0, 0.1
#: encoded entries that are kept for the streams that take them next: all that follow live take the same ones
MAX_ENCODED = 256
ALIVE = b": alive\n\n"


class EventFeed:
    """The streams of all VMs. It listens to the journals, and looks at the snapshots, while there are any."""

    def __init__(
        self, vms: Callable[[], Sequence[VmState]], run: Run, pace: Slices | None = None, faults: Faults | None = None
    ) -> None:
        self.pace = pace or Slices()
        self.states = States(run)
        self._faults = faults or Faults()
        self._vms = vms
        self._run = run
        self._streams: set[EventStream] = set()
        self._present: dict[str, VmState] = {}
        self._ears: dict[Journal, tuple[tuple[Ring, Ring], Callable[[], None]]] = {}
        self._orders = count(step=2)
        self._names: tuple[str, ...] = ()
        self._whole = False  # the next look is at all VMs, since some are new
        self._last = 0  # the number of the last entry that was heard
        self._changed = asyncio.Event()
        self._told: dict[str, bytes] = {}  # the state of each VM that all streams are told, as it was last looked at
        self._touched: set[str] = set()  # VMs to which something has happened since the last look
        self._encoded: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._streams)

    async def run(self) -> None:
        """Look for what has changed until cancelled: soon at a VM to which something happened, else once a second."""
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
            await self._look(whole=whole)
            due = clock() + PULSE if whole else due
            await asyncio.sleep(SHORTEST)

    @contextmanager
    def stream(
        self, *, since: int | None, vm: str | None, kinds: frozenset[str], drop: Callable[[], None]
    ) -> Iterator[EventStream]:
        """Open a stream. `next` gives the past from ``since`` on, then the VMs as they are, then what happens."""
        if not self._streams:
            self._told.clear()  # nobody has looked for a while
        self._listen(anyone=True)
        self._last = self._run.last
        stream = EventStream(vm, kinds, self._run.last, drop)
        self._streams.add(stream)
        if since is not None:
            stream.backlog.begin(self._wanted(stream), since)
        self._changed.set()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            self._listen()

    async def next(self, stream: EventStream, keep_alive: float) -> bytes | None:
        """Return the next messages, or after ``keep_alive`` seconds a comment. None: the stream is over."""
        while not stream.ended:
            stream.woken.clear()
            try:
                made = await self.pace.slice(iter(partial(self._step, stream), None))
            except FellBehindError:
                self._faults.drop(Drop.FELL_BEHIND)
                stream.drop()
                return None
            if data := b"".join(made):
                return data
            if not made and not await _woken(stream, keep_alive):
                return ALIVE
        return None

    def close(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.end()

    # what happens

    def _wanted(self, stream: EventStream) -> Iterator[Ring]:
        return (ring for rings, _ in self._ears.values() for ring in rings if stream.wants(ring))

    def _listen(self, *, anyone: bool = False) -> None:
        """Listen to the journals of the present VMs if there is anyone to tell, and to no other."""
        vms = self._vms() if anyone or self._streams else ()
        self._present = {one.name: one for one in vms}
        before, self._names = self._names, tuple(self._present)
        if self._names != before:
            self.states.keep_only(self._names)
            self._told = {name: self._told[name] for name in self._names if name in self._told}
            self._whole = True
            for stream in self._streams:
                stream.renamed()
        journals = {one.journal for one in vms}
        for journal in journals - self._ears.keys():
            self._hear(journal)
        for journal in self._ears.keys() - journals:
            self._ears.pop(journal)[1]()

    def _hear(self, journal: Journal) -> None:
        """Listen to a journal. What it has had since a stream was opened is that stream's too."""
        order = next(self._orders)
        rings = Ring(order, journal, events=False), Ring(order + 1, journal, events=True)
        self._ears[journal] = rings, journal.listen(partial(self._happened, rings))
        for stream in self._streams:
            for ring in filter(stream.wants, rings):
                stream.backlog.join(ring)
            stream.woken.set()

    def _happened(self, rings: tuple[Ring, Ring], entry: Entry) -> None:
        """Called by a journal, in the midst of a VM's work: no fault of ours may reach it."""
        try:
            self._note(rings, entry)
        except Exception as error:  # noqa: BLE001 -- as above
            self._faults.fault("feed", error)
            self.close()  # what they would miss comes when they resume

    def _note(self, rings: tuple[Ring, Ring], entry: Entry) -> None:
        if entry.number != self._last + 1:
            self._listen()  # to a VM that is new and has spoken before: what it said comes first
        self._last = entry.number
        ring = rings[isinstance(entry.what, Event)]
        for stream in self._streams:
            stream.happened(ring, entry.number)
        self._touched.add(entry.vm)
        self._changed.set()

    async def _look(self, *, whole: bool) -> None:
        """Look at the VMs to which something has happened, or at all. What has changed is told."""
        self._listen()
        names = self._touched & self._present.keys()
        self._touched.clear()
        whole, self._whole = whole or self._whole, False
        steps = (self._see(name) for name in (tuple(self._present) if whole else names))
        while await self.pace.slice(steps):
            pass

    def _see(self, name: str) -> bytes:
        """Look at a VM, and have its state told where it is another than was told. Return nothing: this is a step."""
        data = self._state(name)
        if data is not None and self._told.get(name) is not data:
            self._told[name] = data
            for stream in self._streams:
                stream.changed(name)
        return b""

    def _state(self, name: str) -> bytes | None:
        """Return the state of a VM; None where it is gone, or cannot be told."""
        vm = self._present.get(name)
        try:
            return None if vm is None else self.states.of(vm)
        except Exception as error:  # noqa: BLE001 -- one VM's fault: the others are still told
            self._faults.fault("state", error)
            return None

    # what a stream is told

    def _step(self, stream: EventStream) -> bytes | None:
        """Return a stream's next message, nothing where the next entry is of no kind that it wants, None at the end."""
        if not stream.greeted and stream.backlog.past:
            return self._tell_entry(stream) or b""
        if not stream.greeted:
            stream.greet(self._present)
        if stream.names:
            stream.names = False
            return message("vms", encode({"names": list(self._present)}))
        stale = stream.stale
        if stale is not None and stream.entry_was_last:
            return self._tell_state(stream, stale)
        if (data := self._tell_entry(stream)) is not None:
            return data
        return None if stale is None else self._tell_state(stream, stale)

    def _tell_entry(self, stream: EventStream) -> bytes | None:
        entry = stream.backlog.take()
        stream.entry_was_last = entry is not None
        if entry is None:
            return None
        return self._entry(entry) if serialize.kind_of(entry.what) in stream.kinds else b""

    def _tell_state(self, stream: EventStream, name: str) -> bytes:
        data = self._told.get(name)
        if data is None and (data := self._state(name)) is not None:
            self._told[name] = data
        stream.told(name)
        stream.entry_was_last = False
        return b"" if data is None else message("vm", data)

    def _entry(self, entry: Entry) -> bytes:
        """Return the message of an entry; those that follow live all take the one that was encoded first."""
        known = self._encoded.get(entry.number)
        if known is None:
            data = encode(serialize.entry(entry, self._run))
            known = message(serialize.kind_of(entry.what), data, self._run.ref(entry.number))
            self._encoded[entry.number] = known
            if len(self._encoded) > MAX_ENCODED:
                del self._encoded[next(iter(self._encoded))]
        return known


def message(event: str, data: bytes, identity: str | None = None) -> bytes:
    """Return one server-sent event (HTML, section 9.2). JSON has no line ends of its own, so one line holds it."""
    place = "" if identity is None else f"id: {identity}\n"
    return b"%sevent: %s\ndata: %s\n\n" % (place.encode(), event.encode(), data)


async def _woken(stream: EventStream, seconds: float) -> bool:
    """Wait until a stream has something to do; False: so many seconds have passed without it."""
    try:
        async with asyncio.timeout(seconds):
            await stream.woken.wait()
    except TimeoutError:
        return False
    return True
