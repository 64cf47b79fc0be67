"""Many VMs: every answer is whole, whoever asks and however; streams outlive a change of names."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from qmpguard.address import UnixAddress
from qmpguard.admin import process, serialize
from qmpguard.admin.metrics import VMS_PER_STEP, MetricsCollector
from qmpguard.admin.slices import PIECE_SIZE
from qmpguard.admin.sse import KEEP_ALIVE, EventFeed
from qmpguard.policy.policy import Policy
from qmpguard.policy.verdict import Verdict
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.proxy.vm import Vm
from qmpguard.record import Decision, Peer, Run
from qmpguard.remote.admin import AdminClient as PlainVisitor
from tests.support.visiting import AdminClient, serving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.admin.event_stream import EventStream
    from qmpguard.proxy.state.snapshot import Snapshot

#: more than the 255 of which a change of names once dropped every stream
MANY = 300
PATHS = ("/healthz", "/readyz", "/metrics", "/api/v1/vms", "/api/v1/vms/vm7", "/api/v1/decisions", "/api/v1/rules",
         "/openapi.json", "/", "/page.js")  # fmt: skip


def fleet(count: int) -> list[Vm]:
    run = Run("abc")
    return [Vm(f"vm{n}", UnixAddress(f"/nowhere/{n}"), Policy(), run=run) for n in range(count)]


@pytest.fixture
async def many(tmp_path: Path) -> AsyncGenerator[tuple[list[Vm], AdminClient]]:
    vms = fleet(MANY)
    path = str(tmp_path / "admin.sock")
    async with (
        serving(UnixAddress(path), vms, vms[0].journal.run) as admin,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0)) as http,
    ):
        yield vms, AdminClient(http, "http://localhost", admin)


async def test_a_large_answer_is_whole_for_every_client(many: tuple[list[Vm], AdminClient], tmp_path: Path) -> None:
    vms, visitor = many
    for n in range(4 * MANY):
        vm = vms[n % MANY]
        vm.journal.add(1.0, Decision(vm.journal.next_ref, Peer(1), "migrate", Verdict(), "11.1"))
    plain = PlainVisitor(str(tmp_path / "admin.sock"))
    large = 0
    for path in PATHS:
        status, body = await visitor.get(path)
        other, data = await asyncio.to_thread(plain.get, path)
        assert (status, body) == (other, data.decode() if isinstance(body, str) else json.loads(data))
        large += len(json.dumps(body)) > PIECE_SIZE
    assert large >= 3
    assert (await visitor.get("/api/v1/vms"))[1]["vms"] == [serialize.vm(vm.snapshot(), vm.journal.run) for vm in vms]
    numbers = [int(one["id"].split("-")[1]) for one in (await visitor.get("/api/v1/decisions"))[1]["decisions"]]
    assert numbers == list(range(4 * MANY - 999, 4 * MANY + 1))


async def test_what_head_answers_leaves_the_connection_in_order(many: tuple[list[Vm], AdminClient]) -> None:
    _, visitor = many
    for path in PATHS:
        async with visitor.http.head(visitor.base + path) as head:
            assert await head.read() == b""
        async with visitor.http.get(visitor.base + path) as response:  # on the same connection: there is one
            await response.read()
            assert (head.status, head.content_type) == (response.status, response.content_type)


async def test_a_change_of_names_is_told_and_drops_no_stream(many: tuple[list[Vm], AdminClient]) -> None:
    vms, visitor = many
    async with visitor.http.get(visitor.base + "/api/v1/stream") as unknown_arguments, visitor.stream() as stream:
        assert len((await stream.next())["names"]) == MANY
        assert {(await stream.next())["name"] for _ in range(MANY)} == {vm.name for vm in vms}
        for n in range(3):
            vms.append(Vm(f"new{n}", UnixAddress("/nowhere"), Policy(), run=vms[0].journal.run))
            assert (await stream.next())["names"][-1] == f"new{n}"
            assert (await stream.next())["name"] == f"new{n}"
        del vms[:MANY]
        assert len((await stream.next())["names"]) == 3
        assert visitor.admin is not None
        assert len(visitor.admin._feed) == 2
        unknown_arguments.close()


@pytest.mark.parametrize("count", [0, 1, VMS_PER_STEP, VMS_PER_STEP + 1, 3 * VMS_PER_STEP])
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_metrics_that_are_encoded_in_steps_are_those_that_the_library_encodes(
    count: int, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tuple(process.metrics())  # the process changes between the two
    monkeypatch.setattr(process, "metrics", lambda: iter(once))
    vms = fleet(count)
    for n, vm in enumerate(vms):
        vm.counts.passed = n
        vm.counts.commands.add(0.01 * n)
    meter = MetricsCollector(lambda: [vm.snapshot() for vm in vms], lambda: Upkeep(reloads=2, lost={"audit": 3}))
    encode, _ = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(meter)
    assert b"".join(meter.encode_in_steps(encode, vms)) == encode(registry)


async def test_a_vm_that_changes_all_the_time_is_told_once_a_look_however_many_listen() -> None:
    (vm,) = vms = fleet(1)
    looked = 0

    class Busy:
        name, journal = vm.name, vm.journal

        def snapshot(self) -> Snapshot:
            nonlocal looked
            looked += 1
            vm.counts.passed += 1
            return replace(vm.snapshot(), counts=deepcopy(vm.counts))

    busy = Busy()
    feed = EventFeed(lambda: [busy], vms[0].journal.run)
    with ExitStack() as stack:
        streams = [
            stack.enter_context(feed.stream(since=None, vm=None, kinds=frozenset({"link"}), drop=lambda: None))
            for _ in range(20)
        ]
        for looks in range(1, 5):
            told = [await drained(feed, stream) for stream in streams for _ in range(2)]
            assert [data.count(b"event: vm\n") for data in told] == [1, 0] * len(streams)
            assert looked == looks
            feed.states.of(busy)  # as somebody else asks for it
            await feed._refresh(whole=True)
            looked -= 1


async def drained(feed: EventFeed, stream: EventStream) -> bytes:
    """What a stream is told now."""
    data = b""
    while (more := await feed.next(stream, 0)) not in (None, KEEP_ALIVE):
        assert more is not None
        data += more
    return data
