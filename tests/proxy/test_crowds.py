"""Many clients of one VM: each gets its turn, none can stall the others, and together they stay within bounds."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.access import Role
from qmpguard.policy.policy import Policy
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu.link import MAX_BEHIND
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.proxy.sockets.stream import Outbox, Stream
from qmpguard.wire.json import encode
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qmpguard.proxy.clients.session import Session

MIB = 1 << 20


async def test_three_hundred_clients_are_here_at_once_and_all_are_served(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        together = asyncio.Barrier(300)

        async def chat(number: int) -> None:
            async with connected(tmp_path / "guard.sock") as qmp:
                await together.wait()
                assert len(guard.vm.clients) == 300
                assert (await qmp.ask("query-name", id=number))["id"] == number
                await together.wait()

        async with asyncio.TaskGroup() as tasks:
            for number in range(300):
                tasks.create_task(chat(number))
        await eventually(lambda: not guard.vm.clients)


async def test_a_storm_of_connections_that_come_to_nothing_keeps_nobody_out(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        for _ in range(5):
            storm = [socket.socket(socket.AF_UNIX) for _ in range(200)]
            for i, sock in enumerate(storm):
                sock.setblocking(False)
                sock.connect(str(tmp_path / "guard.sock"))
                if i % 2:
                    sock.send(b'{"execute": "qmp_capabilities"}{"execute": "query-name"}')
                sock.close()
            async with connected(tmp_path / "guard.sock") as qmp:
                assert await qmp.ask("query-name") == {"return": {}}
        await eventually(lambda: not guard.vm.clients)
        assert guard.vm.counts.links == 1


async def test_a_client_with_many_requests_lets_one_with_a_single_request_in_between(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as greedy,
        connected(tmp_path / "guard.sock") as modest,
    ):
        qemu.hold.add("query-name")
        greedy.send(*({"execute": "query-name", "id": i} for i in range(500)))
        await qemu.until("query-name", 6)
        modest.send({"execute": "query-status"})
        qemu.let_go()
        assert (await modest.receive())["return"]["running"]
        place = qemu.commands().index("query-status")
        assert place <= 8  # behind the six that were under way, and at most one more turn of the other's
        assert [(await greedy.receive())["id"] for _ in range(500)] == list(range(500))


BIG = {
    "a long text": b'{"execute": "query-big", "arguments": {"a": "%b"}}' % (b"x" * (3 * MIB)),
    "many tokens": b'{"execute": "query-big", "arguments": {"a": [%b1]}}' % (b"1," * 150_000),
    "bad input": b"[" * 1000 + b"1," * 100_000 + b'{"execute": "query-big"}',
}


@pytest.mark.parametrize("data", BIG.values(), ids=BIG)
async def test_a_big_request_lets_others_in_between_while_it_is_read(tmp_path: Path, data: bytes) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as big,
        connected(tmp_path / "guard.sock") as small,
    ):
        (session,) = (s for s in guard.vm.clients if s.peer.number == 1)
        big.raw(data)
        await eventually(lambda: session.weight > 0)
        overtaken = 0
        while session.weight and overtaken < 3:
            assert await small.ask("query-name") == {"return": {}}
            overtaken += 1
        assert overtaken == 3
        assert "query-big" not in qemu.commands()


FLOATS = b"[" + b"0.5, " * 100_000 + b"0.5]"


@pytest.mark.parametrize(
    ("data", "busy"),
    [
        (b'{"execute": "query-big", "arguments": {"a": %b}, "id": 1}' % FLOATS, lambda s: s.outstanding),
        (b'{"execute": "query-big", "id": %b}' % FLOATS, lambda s: s._input._long is not None),
        (b'{"execute": "%b", "id": 1}' % (b"q" * 2 * MIB), lambda s: s.outstanding),
    ],
    ids=["arguments", "id", "command"],
)
async def test_a_big_request_holds_up_no_other_vm_while_it_is_written_anew(
    tmp_path: Path, data: bytes, busy: Callable[[Session], bool]
) -> None:
    async with (
        FakeQemu(tmp_path / "q1") as qemu,
        FakeQemu(tmp_path / "q2") as another,
        guarding(qemu.path, tmp_path / "g1") as guard,
        guarding(another.path, tmp_path / "g2"),
        connected(tmp_path / "g1") as big,
        connected(tmp_path / "g2") as small,
    ):
        (session,) = guard.vm.clients
        sent = json.loads(data)
        big.raw(data)
        between = 0
        while sent["execute"] not in qemu.commands():
            assert await small.ask("query-name") == {"return": {}}
            between += bool(busy(session))
        assert between >= 5
        (arrived,) = (request for request in qemu.seen if request.get("execute") == sent["execute"])
        assert json.loads(encode(arrived.get("arguments"))) == sent.get("arguments")
        assert await big.receive() == {"return": {}, "id": sent["id"]}
        assert session.weight == 0


async def test_a_long_message_is_no_longer_pending_when_its_last_byte_can_be_read() -> None:
    """Its answer may come at once, and whether there is room is looked at when it comes."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        stream = Stream(ours, Outbox(lambda size: None, print), limit=MIB)
        stream.write_long(iter([b"a" * 9, b"b" * 9, b"c" * 9]), MIB)
        stream.write(b"d" * 9)
        assert stream.pending >= MIB
        received = b""
        while b"d" not in received:
            with suppress(BlockingIOError):
                received += theirs.recv(99)
            if b"c" in received:
                assert stream.pending <= 9
            await asyncio.sleep(0)
        assert received == b"a" * 9 + b"b" * 9 + b"c" * 9 + b"d" * 9
        assert stream.pending == 0
        stream.close()


async def test_out_of_band_requests_wait_while_qemu_does_not_read(tmp_path: Path) -> None:
    """They would be of no use in the queue of the link, and could fill it until it broke."""
    urgent = b'{"exec-oob": "query-yank", "arguments": {"a": "%b"}}' % (b"x" * 40_000)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock", oob=True)) for _ in range(18)]
        transport = hold_qemu(qemu)
        for client in clients:
            client.raw(urgent * 9)
        link = guard.vm.link
        assert link is not None
        await eventually(lambda: all(session.outstanding == 9 for session in guard.vm.clients))
        assert MAX_BEHIND <= link._stream.pending < MAX_BEHIND + len(urgent) + 100
        for client in clients[9:]:
            client.writer.transport.abort()
        transport.resume_reading()
        for client in clients[:9]:
            assert [await client.receive() for _ in range(9)] == [{"return": {}}] * 9
        assert guard.vm.counts.links == 1


async def test_out_of_band_requests_of_who_has_been_dropped_are_not_kept(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock", oob=True)) for _ in range(3)]
        transport = hold_qemu(qemu)
        for client in clients:
            client.send(*[{"exec-oob": "query-yank", "arguments": {"a": "x" * MIB}}] * 2)
        await eventually(lambda: all(session.outstanding == 2 for session in guard.vm.clients))
        waiting = guard.vm.hub._scheduler._urgent
        assert len(waiting) >= 3
        for session in tuple(guard.vm.clients):
            session.close(CloseReason.TOO_MUCH_HELD)
        assert not guard.vm.hub._scheduler._urgent
        transport.resume_reading()
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-name") == {"return": {}}


async def test_out_of_band_and_in_band_requests_take_turns(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock", oob=True) as urgent,
        connected(tmp_path / "guard.sock") as modest,
    ):
        link = guard.vm.link
        assert link is not None
        transport = hold_qemu(qemu)
        urgent.send({"exec-oob": "query-yank", "arguments": {"a": "x" * 3 * MIB}})
        await eventually(lambda: link.is_behind)
        urgent.send(*[{"exec-oob": "query-yank"}] * 8)
        await eventually(lambda: len(guard.vm.hub._scheduler._urgent) == 8)
        modest.send({"execute": "query-name"})
        await eventually(lambda: len(guard.vm.hub._scheduler._turns) == 1)
        transport.resume_reading()
        assert await modest.receive() == {"return": {}}
        assert [await urgent.receive() for _ in range(9)] == [{"return": {}}] * 9
        assert qemu.commands().index("query-name") <= 2


async def test_any_number_of_refusals_can_follow_from_one_reply(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, AsyncExitStack() as stack:
        guard.vm.adopt(Policy(), replace(guard.vm.limits, role=Role.OBSERVER))
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock", oob=True)) for _ in range(200)]
        qemu.hold.add("query-name")
        holder = await stack.enter_async_context(connected(tmp_path / "guard.sock", oob=True))
        holder.send(*[{"execute": "query-name"}] * 6)
        await qemu.until("query-name", 6)
        for client in clients:
            client.send(*[{"execute": "stop"}] * 12)
        await eventually(lambda: len(guard.vm.hub._scheduler._turns) == 200)
        qemu.let_go()
        for client in clients:
            assert all(["error" in await client.receive() for _ in range(12)])


async def test_a_reply_that_is_not_read_yet_is_sent_whole_at_the_end(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        transport = hold(qmp.writer.transport)
        qemu.answers["query-big"] = lambda _: "x" * MIB
        qmp.send({"execute": "query-big"})
        (session,) = guard.vm.clients
        await eventually(lambda: session.stream.pending > 0)
        guard.vm.quiesce()
        transport.resume_reading()
        assert await qmp.receive() == {"return": "x" * MIB}
        assert await qmp.closed()


async def test_what_was_received_is_answered_at_the_end_however_long_it_is(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        (session,) = guard.vm.clients
        session.data_received(b'{"execute": "stop", "id": [%b1]}' % (b"1," * 12_000), [])
        guard.vm.quiesce()
        assert "return" in await qmp.receive()
        assert qemu.commands() == ["stop"]
        assert await qmp.closed()


async def test_a_single_reply_may_be_larger_than_what_may_be_left_unread(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        guard.vm.adopt(Policy(), replace(guard.vm.limits, max_unread=MIB))
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name", id="x" * (3 * MIB)) == {"return": {}, "id": "x" * (3 * MIB)}


async def test_a_descriptor_goes_with_a_big_request_and_only_there(tmp_path: Path) -> None:
    long = b'{"execute": "getfd", "arguments": {"fdname": "a"}, "id": [%b0]}' % (b"0.5, " * 50_000)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            with socket.socket() as anything:
                qmp.with_descriptors(long[:100], anything.fileno())
            qmp.raw(long[100:])
            assert len((await qmp.receive())["id"]) == 50_001
            qmp.send({"execute": "getfd", "arguments": {"fdname": "b"}})
            await qmp.receive()
        counts = guard.vm.counts
        assert (counts.descriptors_received, counts.descriptors_passed) == (1, 1)


async def test_a_qemu_that_goes_away_in_the_middle_of_a_big_request_takes_nothing_with_it(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            hold_qemu(qemu)
            qmp.raw(b'{"execute": "query-big", "arguments": {"a": %b}}' % FLOATS)
            link = guard.vm.link
            assert link is not None
            await eventually(lambda: link._stream.pending > 0)
            qemu.die()
            assert await qmp.closed()
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}


async def test_a_qemu_that_does_not_read_is_not_buried(tmp_path: Path) -> None:
    """What clients send meanwhile waits with them, and is executed when QEMU reads again."""
    request = {"execute": "query-name", "arguments": {"a": "x" * (2 * MIB)}}
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock", oob=True)) for _ in range(8)]
        transport = hold_qemu(qemu)
        for client in clients:
            client.send(request, request)
        link = guard.vm.link
        assert link is not None
        await eventually(lambda: all(session.outstanding for session in guard.vm.clients))
        assert MAX_BEHIND <= link._stream.pending < MAX_BEHIND + 3 * MIB
        transport.resume_reading()
        for client in clients:
            assert [await client.receive() for _ in range(2)] == [{"return": {}}] * 2


def hold_qemu(qemu: FakeQemu) -> asyncio.Transport:
    return hold(qemu.transport)


def hold(transport: asyncio.WriteTransport | None) -> asyncio.Transport:
    """Read nothing more, so that the other side feels it."""
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    return transport


async def lazy(stack: AsyncExitStack, qemu: FakeQemu, path: Path, size: int) -> Client:
    """A client that reads nothing of a reply of some size."""
    client = await stack.enter_async_context(connected(path))
    qemu.answers["query-big"] = lambda _: "x" * size
    hold(client.writer.transport)
    client.send({"execute": "query-big"})
    return client


async def test_where_all_leave_too_much_unread_the_fullest_is_dropped_first(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, budget=Budget(16 * MIB)) as guard,
        connected(tmp_path / "guard.sock") as reader,
        AsyncExitStack() as stack,
    ):
        for size in (3, 5, 4, 3, 3):
            before = guard.vm.counts.passed
            await lazy(stack, qemu, tmp_path / "guard.sock", size * MIB)
            await eventually(lambda: guard.vm.counts.passed > before)  # noqa: B023
            await eventually(lambda: all(not session.outstanding for session in guard.vm.clients))
        assert sum(session.weight for session in guard.vm.clients) < 16 * MIB
        assert sorted(s.peer.number for s in guard.vm.clients) == [1, 2, 4, 5, 6]
        assert guard.vm.counts.drops["too_much_held"] == 1
        assert await reader.ask("query-name") == {"return": {}}


async def test_where_all_send_too_much_that_is_not_finished_the_fullest_is_dropped_first(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, budget=Budget(4 * MIB)) as guard,
        connected(tmp_path / "guard.sock") as other,
        AsyncExitStack() as stack,
    ):
        for size in (1.0, 1.5, 1.2, 1.1):
            client = await stack.enter_async_context(connected(tmp_path / "guard.sock"))
            client.raw(b'"' + b"x" * int(size * MIB))
            await client.writer.drain()
        await eventually(lambda: guard.vm.counts.drops["too_much_held"] == 1)
        assert sorted(s.peer.number for s in guard.vm.clients) == [1, 2, 4, 5]
        assert await other.ask("query-name") == {"return": {}}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_client_that_has_left_is_free_at_once_and_waits_for_no_collector(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            await qmp.ask("query-name")
            (left,) = map(weakref.ref, guard.vm.clients)
        await eventually(lambda: left() is None)


@pytest.mark.usefixtures("no_collector")
async def test_nor_is_one_kept_whose_requests_were_never_sent(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.hold.add("system_reset")
        async with connected(tmp_path / "guard.sock") as qmp:
            qmp.send({"execute": "system_reset"}, {"execute": "stop"}, {"execute": "cont"})
            await eventually(lambda: qemu.commands() == ["system_reset"])
            (left,) = map(weakref.ref, guard.vm.clients)
            qemu.die()
            await eventually(lambda: left() is None)


@pytest.mark.usefixtures("no_collector")
async def test_nor_is_a_client_kept_that_had_to_wait_for_qemu(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard:
        async with connected(tmp_path / "guard.sock", negotiate=False) as early:
            await eventually(lambda: len(guard.vm.clients) == 1)
            async with FakeQemu(tmp_path / "q"):
                assert "QMP" in await early.receive()
                (left,) = map(weakref.ref, guard.vm.clients)
        await eventually(lambda: left() is None)


async def test_what_a_few_bytes_become_in_memory_counts(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, budget=Budget(8 * MIB)) as guard,
        connected(tmp_path / "guard.sock") as other,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock")) for _ in range(4)]
        for client in clients:
            client.raw(b"[" + b"[]," * 20_000)
            await client.writer.drain()
        await eventually(lambda: all(s._input.held > 3 * MIB for s in guard.vm.clients if s.peer.number > 1))
        clients[0].raw(b"[]," * 100_000)
        await eventually(lambda: guard.vm.counts.drops["too_much_held"] > 0)
        await eventually(lambda: sum(session.weight for session in guard.vm.clients) < 8 * MIB)
        assert await other.ask("query-name") == {"return": {}}


async def test_out_of_band_requests_that_are_not_answered_count(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.silent = True
        qmp.send(*[{"exec-oob": "query-yank", "arguments": {"a": "x" * MIB}}] * 3)
        (session,) = guard.vm.clients
        await eventually(lambda: len(qemu.seen) >= 4)
        assert 3 * MIB < session.weight < 4 * MIB


async def test_a_request_may_be_as_large_as_is_said(tmp_path: Path) -> None:
    request = {"execute": "ringbuf-write", "arguments": {"device": "r", "data": "x" * (9 * MIB)}}
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qmp.send(request)
            assert "token size limit exceeded" in (await qmp.receive())["error"]["desc"]
        guard.vm.adopt(Policy(), replace(guard.vm.limits, max_request=10 * MIB))
        async with connected(tmp_path / "guard.sock") as qmp:
            qmp.send(request)
            assert await qmp.receive() == {"return": {}}
        assert qemu.seen[-1]["arguments"] == request["arguments"]


class Hoard:
    """A holder that tells when it was closed."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.reason: CloseReason | None = None

    def close(self, reason: CloseReason) -> None:
        self.weight, self.reason = 0, reason


def test_the_budget_closes_no_more_than_it_must() -> None:
    budget = Budget(3200)
    small, large, larger = Hoard(10), Hoard(2800), Hoard(2900)
    vms = [small], [large, larger]
    for vm in vms:
        budget.watch(vm)
    budget.grew(99)
    assert not any(hoard.reason for vm in vms for hoard in vm)
    budget.grew(1)
    assert [larger.reason, large.reason, small.reason] == [CloseReason.TOO_MUCH_HELD, None, None]
    budget.forget(vms[1])
    large.weight = 9000
    budget.grew(100)
    assert not large.reason
