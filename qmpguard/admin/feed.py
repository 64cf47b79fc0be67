"""What happens, to everyone who listens: one message for all streams, a bounded queue for each of them."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import contextmanager, suppress
from heapq import merge
from typing import TYPE_CHECKING, Protocol

from qmpguard.admin import view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qmpguard.proxy.snapshot import Snapshot
    from qmpguard.record import Entry, Journal, Run

log = logging.getLogger(__name__)

#: messages that a stream may leave unread beside what the sockets hold; then it is dropped and may resume
MAX_WAITING = 256
#: seconds between two looks at the snapshots while somebody listens, and at least between two of them
PULSE, SHORTEST = 1.0, 0.1


class Vm(Protocol):
    """What is shown of one VM."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def journal(self) -> Journal:
        """What has happened."""
        ...

    def snapshot(self) -> Snapshot:
        """Return all that is known of it, from memory."""
        ...


class Stream:
    """One who listens: to one VM or all, to some kinds of happening or all. None in its queue is the end."""

    def __init__(self, vm: str | None, kinds: frozenset[str], drop: Callable[[], None]) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self.vm = vm
        self.kinds = kinds
        self._drop = drop

    def wants(self, vm: str, kind: str) -> bool:
        """Say whether a message is for this stream."""
        return self.vm in (None, vm) and kind in self.kinds

    def put(self, message: bytes | None) -> None:
        """Queue a message; one who does not read is dropped."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self._drop()


class Feed:
    """The streams of all VMs. It listens to the journals, and looks at the snapshots, while there are any."""

    def __init__(self, vms: Callable[[], Sequence[Vm]], run: Run) -> None:
        self._vms = vms
        self._run = run
        self._streams: set[Stream] = set()
        self._ears: dict[Journal, Callable[[], None]] = {}
        self._changed = asyncio.Event()
        self._told: dict[str, bytes] = {}
        self._named = b""

    def __len__(self) -> int:
        return len(self._streams)

    async def run(self) -> None:
        """Tell of changed snapshots until cancelled: soon after something has happened, else once a second."""
        while True:
            if not self._streams:
                await self._changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE):
                    await self._changed.wait()
            self._changed.clear()
            self._tell_changes()
            await asyncio.sleep(SHORTEST)

    @contextmanager
    def stream(
        self, *, since: int | None, vm: str | None, kinds: frozenset[str], drop: Callable[[], None]
    ) -> Iterator[tuple[Stream, list[bytes]]]:
        """Open a stream, and give what comes first: the past from ``since`` on, and the VMs as they are.

        Nothing happens between the two: what is not in the past comes by the stream.
        """
        stream = Stream(vm, kinds, drop)
        first = [] if since is None else [self._entry(e) for e in self.past(since) if stream.wants(e.vm, _kind(e))]
        self._tell_changes()  # so that everybody has been told the same
        first += [self._named, *(self._told[one.name] for one in self._vms() if vm in (None, one.name))]
        self._streams.add(stream)
        self._listen()
        self._changed.set()
        try:
            yield stream, first
        finally:
            self._streams.discard(stream)
            self._listen()

    def past(self, since: int, vm: str | None = None) -> Iterator[Entry]:
        """Return what has happened after a number, oldest first, of one VM or all."""
        journals = (one.journal.since(since) for one in self._vms() if vm in (None, one.name))
        return merge(*journals, key=lambda entry: entry.number)

    def close(self) -> None:
        """End every stream."""
        for stream in tuple(self._streams):
            stream.put(None)

    def _listen(self) -> None:
        """Listen to the journals of the present VMs if there are streams, and to no other."""
        journals = {one.journal for one in self._vms()} if self._streams else set()
        for journal in journals - self._ears.keys():
            self._ears[journal] = journal.listen(self._happened)
        for journal in self._ears.keys() - journals:
            self._ears.pop(journal)()

    def _happened(self, entry: Entry) -> None:
        message, kind = self._entry(entry), _kind(entry)
        for stream in tuple(self._streams):
            if stream.wants(entry.vm, kind):
                stream.put(message)
        self._changed.set()

    def _tell_changes(self) -> None:
        self._listen()
        if self._named != (names := self._names()):
            self._named = names
            self._told = {}
            self._tell(names)
        for one in self._vms():
            message = self._vm(one.snapshot())
            if self._told.get(one.name) == message:
                continue
            self._told[one.name] = message
            self._tell(message, one.name)

    def _tell(self, message: bytes, vm: str | None = None) -> None:
        for stream in tuple(self._streams):
            if vm is None or stream.vm in (None, vm):
                stream.put(message)

    def _names(self) -> bytes:
        return message("vms", {"names": [one.name for one in self._vms()]})

    def _entry(self, entry: Entry) -> bytes:
        return message(_kind(entry), view.entry(entry, self._run), self._run.ref(entry.number))

    def _vm(self, shot: Snapshot) -> bytes:
        return message("vm", view.vm(shot, self._run))


def message(event: str, data: view.Object, identity: str | None = None) -> bytes:
    """Return one server-sent event (HTML, section 9.2). JSON has no line ends of its own, so one line holds it."""
    place = "" if identity is None else f"id: {identity}\n"
    return f"{place}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _kind(entry: Entry) -> str:
    return view.kind_of(entry.what)
