"""A stream tells each entry once and in order, whatever happens between its steps; what it cannot tell ends it."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from qmpguard.admin import serialize
from qmpguard.admin.event_stream import Backlog, EventStream, FellBehindError, Ring
from qmpguard.admin.history import latest_entries
from qmpguard.admin.sse import EventFeed
from qmpguard.policy.verdict import Verdict
from qmpguard.record import Decision, Event, Journal, LinkChange, Peer, Record, Run

if TYPE_CHECKING:
    from qmpguard.proxy.state.snapshot import Snapshot

KINDS = frozenset({"decision", "drift", "link", "event", "override"})
DECISION = Decision("x", Peer(1), "migrate", Verdict(), "11.1")
RECORDS: tuple[Record, ...] = (Event("STOP", "{}"), LinkChange(up=True, what="11.1"), DECISION)
#: rings of the tests: small, so that they overflow
SIZE = 8


@dataclass(eq=False)
class OneVm:
    """A VM of which only the past is of interest: its state cannot be told."""

    name: str
    journal: Journal

    def snapshot(self) -> Snapshot:
        raise LookupError


@dataclass
class Supervisor:
    """VMs that come and go, and everything that has happened to them."""

    run: Run = field(default_factory=lambda: Run("abc"))
    vms: list[OneVm] = field(default_factory=list)
    all: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, size: int = SIZE) -> OneVm:
        vm = OneVm(f"vm{len(self.vms)}", Journal(f"vm{len(self.vms)}", self.run, size))
        self.vms.append(vm)
        return vm

    def happen(self, vm: OneVm, what: Record) -> int:
        entry = vm.journal.add(1.0, what)
        self.all[entry.number] = (vm.name, serialize.kind_of(what))
        return entry.number

    def wanted(self, kinds: frozenset[str], vm: str | None) -> list[int]:
        return [number for number, (name, kind) in self.all.items() if kind in kinds and vm in (None, name)]


@dataclass
class Listener:
    """A client that resumes where it was cut off."""

    feed: EventFeed
    vm: str | None
    kinds: frozenset[str]
    since: int
    told: list[int] = field(default_factory=list)
    behind: int = 0
    stack: ExitStack = field(default_factory=ExitStack)
    stream: EventStream | None = None

    async def read(self) -> None:
        if self.stream is None or self.stream.ended:
            self.connect()
        assert self.stream is not None
        await asyncio.sleep(0)
        if not (
            self.stream.next_stale or self.stream.names_pending or not self.stream.is_live or self.stream.backlog._heads
        ):
            return
        data = await self.feed.next(self.stream, 0)
        if data is None:
            self.behind += 1
            self.disconnect()
            return
        self.told += [int(number) for number in re.findall(rb"^id: abc-(\d+)$", data, re.MULTILINE)]

    def connect(self) -> None:
        since = self.told[-1] if self.told else self.since
        self.stream = self.stack.enter_context(
            self.feed.stream(since=since, vm=self.vm, kinds=self.kinds, drop=lambda: None)
        )

    def disconnect(self) -> None:
        self.stack.close()
        self.stream = None


async def _something(chance: random.Random, fleet: Supervisor, listeners: list[Listener], size: int) -> None:
    """One thing that may happen next."""
    match chance.randrange(8):
        case 0 if len(fleet.vms) < 6:
            fleet.happen(fleet.add(size), LinkChange(up=True, what="new"))
        case 1 | 2 | 3 | 4:
            for _ in range(chance.randrange(4)):
                fleet.happen(chance.choice(fleet.vms), chance.choice(RECORDS))
        case 5 | 6:
            await chance.choice(listeners).read()
        case 7:
            chance.choice(listeners).disconnect()
        case _:
            pass
    await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_in_between_each_entry_is_told_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- repeatable
    size = chance.choice([SIZE, 1000])
    fleet = Supervisor()
    for _ in range(3):
        fleet.add(size)
    feed = EventFeed(lambda: fleet.vms, fleet.run)
    for _ in range(10):
        fleet.happen(chance.choice(fleet.vms), chance.choice(RECORDS))
    listeners = [
        Listener(feed, chance.choice([None, None, "vm1"]), frozenset(chance.sample(sorted(KINDS), 3)) | {"link"}, 0)
        for _ in range(3)
    ]
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(feed.run())
        for _ in range(150):
            await _something(chance, fleet, listeners, size)
        for listener in listeners * 3:
            await listener.read()
        task.cancel()
    for listener in listeners:
        listener.stack.close()
        wanted = fleet.wanted(listener.kinds, listener.vm)
        assert listener.told == sorted(set(listener.told))
        assert set(listener.told) <= set(wanted)
        if size > SIZE:
            assert (listener.told, listener.behind) == (wanted, 0)
    assert not any(vm.journal._listeners for vm in fleet.vms)


async def test_what_has_happened_since_the_opening_and_left_its_ring_ends_the_stream_and_is_never_skipped() -> None:
    fleet = Supervisor()
    vm = fleet.add()
    feed = EventFeed(lambda: fleet.vms, fleet.run)
    dropped: list[bool] = []
    with feed.stream(since=None, vm=None, kinds=KINDS, drop=lambda: dropped.append(True)) as stream:
        for _ in range(SIZE + 1):
            fleet.happen(vm, DECISION)
        assert await feed.next(stream, 0) is None
    assert dropped


@pytest.mark.parametrize("more", range(SIZE * 2 + 2))
def test_the_past_may_leave_its_ring_but_what_comes_after_it_may_not(more: int) -> None:
    fleet = Supervisor()
    vm = fleet.add()
    for _ in range(SIZE):
        fleet.happen(vm, DECISION)
    ring = Ring(0, vm.journal, events=False)
    backlog = Backlog(fleet.run.last)
    backlog.begin([ring], 0)
    for _ in range(more):
        backlog.add(ring, fleet.happen(vm, DECISION))
    told = []
    try:
        while backlog._heads:
            if (entry := backlog.take()) is not None:
                told.append(entry.number)
    except FellBehindError:
        assert more > SIZE
        assert not told
    else:
        assert more <= SIZE
        assert told == list(range(1 + more, SIZE + more + 1))


async def test_of_a_state_only_the_latest_is_told_and_of_names_too() -> None:
    stream = EventStream(None, KINDS, 0, lambda: None)
    stream.go_live(["a", "b"])
    for _ in range(1000):
        stream.on_state_changed("a")
        stream.on_vms_changed()
    assert stream.next_stale == "a"
    stream.on_state_sent("a")
    assert stream.next_stale == "b"
    stream.on_state_sent("b")
    assert stream.next_stale is None


async def test_a_stream_holds_nothing_that_grows_with_what_it_leaves_unread() -> None:
    fleet = Supervisor()
    vms = [fleet.add(1000) for _ in range(5)]
    feed = EventFeed(lambda: fleet.vms, fleet.run)
    with feed.stream(since=0, vm=None, kinds=KINDS, drop=lambda: None) as stream:
        for _ in range(300):
            for vm in vms:
                fleet.happen(vm, DECISION)
        assert len(stream.backlog._heads) == len(vms)
        assert len(stream.backlog._first) <= len(vms)


async def test_a_fault_in_the_feed_reaches_no_journal_and_its_streams_may_resume() -> None:
    fleet = Supervisor()
    vm = fleet.add()
    feed = EventFeed(lambda: fleet.vms, fleet.run)
    with feed.stream(since=None, vm=None, kinds=KINDS, drop=lambda: None) as stream:
        feed._dirty = None  # type: ignore[assignment]
        fleet.happen(vm, DECISION)
        assert await feed.next(stream, 0) is None
    assert feed._faults.drops["fault"] == 1


def test_the_latest_decisions_are_found_from_the_newest_backwards() -> None:
    fleet = Supervisor()
    vms = [fleet.add() for _ in range(3)]
    numbers = [fleet.happen(vms[n % 3], RECORDS[n % 2 + 1]) for n in range(60)]
    kept = sorted(e.number for vm in vms for e in vm.journal.since(0) if isinstance(e.what, Decision))
    assert set(kept) < {n for n, (_, kind) in fleet.all.items() if kind == "decision"}
    journals = [vm.journal for vm in vms]
    assert [e.number for e in latest_entries(journals, {"decision"}, 0, numbers[-1]) if e] == kept[::-1]
    assert [e.number for e in latest_entries(journals, {"decision"}, kept[-3], numbers[-1]) if e] == [
        kept[-1],
        kept[-2],
    ]
    assert [e.number for e in latest_entries(journals, {"decision"}, 0, kept[-2]) if e] == kept[-2::-1]
    wanted = sorted(e.number for vm in vms for e in vm.journal.since(0))
    assert [e.number for e in latest_entries(journals, KINDS, 0, numbers[-1]) if e] == wanted[::-1]
