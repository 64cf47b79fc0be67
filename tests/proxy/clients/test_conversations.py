"""One client's conversation as QEMU would have it: how far it is read, in which order it is answered, told what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.fakes.qemu import GREETING, FakeQemu
from tests.support.guarding import connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("oob", "under_way"), [(False, 1), (True, 6)])
async def test_a_client_has_as_many_requests_under_way_as_it_would_have_at_qemu(
    tmp_path: Path, *, oob: bool, under_way: int
) -> None:
    """Without out-of-band one that changes something; with it QEMU takes nine, of which the window lets six through."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock", oob=oob) as qmp,
        connected(tmp_path / "guard.sock") as other,
    ):
        qemu.hold.add("stop")
        qmp.send(*({"execute": "stop", "id": i} for i in range(20)))
        await qemu.until("stop", under_way)
        (busy,) = (session for session in guard.vm.clients if session.outstanding)
        assert busy.outstanding == (9 if oob else 2)  # the second is read, and waits
        if not oob:
            assert (await other.ask("query-status"))["return"]["running"]
        assert qemu.commands().count("stop") == under_way
        qemu.let_go()
        assert [(await qmp.receive())["id"] for _ in range(20)] == list(range(20))


async def test_what_a_client_without_out_of_band_has_not_been_answered_is_not_done_when_it_leaves(
    tmp_path: Path,
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.hold.add("query-name")
            qmp.send({"execute": "query-name"}, {"execute": "stop"})
            await qemu.until("query-name")
            qmp.writer.transport.abort()
        while guard.vm.clients:
            qemu.emit("RESUME")  # a hang-up shows when the guard writes
            await asyncio.sleep(0)
        qemu.let_go()
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-name") == {"return": {}}
        assert "stop" not in qemu.commands()


async def test_without_out_of_band_only_queries_run_ahead_and_all_is_answered_in_order(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.hold.add("query-name")
        names = ("query-name", "query-status", "stop", "query-status", "query-name", "cont", "query-uuid")
        qmp.send(*({"execute": name, "id": i} for i, name in enumerate(names)))
        await qemu.until("query-status")
        assert qemu.commands() == ["query-name", "query-status"]
        qemu.let_go()
        assert [(await qmp.receive())["id"] for _ in names] == list(range(len(names)))
        assert qemu.commands() == list(names)


@pytest.mark.parametrize("busy", ["the client itself", "others"])
async def test_out_of_band_is_answered_while_the_window_is_full(tmp_path: Path, busy: str) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as one,
        connected(tmp_path / "guard.sock", oob=True) as two,
    ):
        qemu.hold.add("query-name")
        crowd = two if busy == "others" else one
        crowd.send(*({"execute": "query-name", "id": i} for i in range(8)))
        await qemu.until("query-name", 6)
        for number in range(3):
            one.send({"exec-oob": "query-yank", "id": ["oob", number]})
            assert (await one.receive())["id"] == ["oob", number]
        qemu.let_go()
        assert [(await crowd.receive())["id"] for _ in range(8)] == list(range(8))


async def test_out_of_band_is_each_clients_own_choice(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        one.send({"exec-oob": "query-yank", "id": 1})
        two.send({"exec-oob": "query-yank", "id": 1})
        assert await one.receive() == {"return": {}, "id": 1}
        assert (await two.receive())["error"]["desc"] == "QMP input member 'exec-oob' is unexpected"


async def test_an_event_comes_once_to_each_negotiated_client_and_never_before_its_negotiation(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock", negotiate=False) as late,
    ):
        assert await late.receive() == GREETING
        qemu.emit("STOP")
        assert (await one.receive())["event"] == "STOP"
        late.send({"execute": "qmp_capabilities"})
        await eventually(lambda: all(session.state.value == "commands" for session in guard.vm.clients))
        qemu.emit("RESUME")
        assert await late.receive() == {"return": {}}
        for qmp in (one, late):
            assert (await qmp.receive())["event"] == "RESUME"
            assert (await qmp.ask("query-name", id="end"))["id"] == "end"


async def test_a_client_that_leaves_in_the_middle_of_a_request_or_of_a_reply_disturbs_nobody(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as other,
    ):
        for _ in range(20):
            async with connected(tmp_path / "guard.sock") as qmp:
                qmp.raw(b'{"execute": "query-name"}{"execute": "stop", "argum')
        qemu.answers["query-big"] = lambda _: "x" * (1 << 20)
        for _ in range(20):
            async with connected(tmp_path / "guard.sock") as qmp:
                qmp.send({"execute": "query-big"})
                await qmp.reader.read(1000)
                qmp.writer.transport.abort()
        assert await other.ask("query-name", id=1) == {"return": {}, "id": 1}
        assert "stop" not in qemu.commands()
        while len(guard.vm.clients) > 1:
            qemu.emit("RESUME")
            await asyncio.sleep(0)
