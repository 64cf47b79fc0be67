"""SessionRegistry on a link, with a fake QEMU: ids, order, events, limits, ends."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakes.qemu import GREETING, FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

IDS: list[Any] = [0, -1, 2**63, "", "a", "\u00e9\U0001f600\0", None, True, [], [1, None], {}, {"id": {"id": 1}}]


@pytest.mark.parametrize("identity", IDS, ids=repr)
async def test_an_id_of_any_kind_comes_back(tmp_path: Path, identity: Any) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        assert (await qmp.ask("query-name", id=identity)) == {"return": {}, "id": identity}
        assert (await qmp.ask("nonsense", id=identity))["id"] == identity


async def test_a_request_without_an_id_is_answered_without_one(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        assert await qmp.ask("query-name") == {"return": {}}
        assert (await qmp.ask("nonsense")).keys() == {"error"}


@pytest.mark.parametrize("pretty", [False, True])
async def test_replies_of_a_pretty_qemu_are_passed_on_as_they_came(tmp_path: Path, *, pretty: bool) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.pretty = pretty
        async with guarding(qemu.path):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "guard.sock")
            writer.write(b'{"execute":"qmp_capabilities"}{"execute":"query-status","id":"x"}{"execute":"nonsense"}')
            writer.write_eof()
            text = (await asyncio.wait_for(reader.read(), TIMEOUT)).decode()
            writer.close()
        decoder, values = json.JSONDecoder(), []
        while text:
            value, end = decoder.raw_decode(text)
            values.append(value)
            text = text[end:].lstrip()
        assert values[0] == GREETING
        assert values[2] == {"return": {"status": "running", "running": True}, "id": "x"}
        assert values[3].keys() == {"error"}


async def test_an_id_that_stands_elsewhere_in_a_reply_is_found(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.hold.add("query-name")
        qmp.send({"execute": "query-name", "id": "mine"}, {"execute": "query-name"})
        await qemu.until("query-name", 2)
        one, two = (r["id"] for r in qemu.held)
        qemu.send({"return": {"id": 1}, "id": one, "extra": ', "id": 3'})
        qemu.send({"return": {"id": 1}, "id": two, "extra": 1})
        assert await qmp.receive() == {"return": {"id": 1}, "id": "mine", "extra": ', "id": 3'}
        assert await qmp.receive() == {"return": {"id": 1}, "extra": 1}


async def test_events_reach_negotiated_clients_only_and_keep_their_place_among_replies(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock", negotiate=False) as silent,
    ):
        assert await silent.receive() == GREETING

        def cont(_: object) -> dict[str, object]:
            qemu.emit("RESUME")
            return {}

        qemu.answers["cont"] = cont
        one.send({"execute": "cont", "id": 1})
        assert (await one.receive())["event"] == "RESUME"
        assert await one.receive() == {"return": {}, "id": 1}
        assert await silent.ask("qmp_capabilities") == {"return": {}}


@pytest.mark.parametrize(
    "late",
    [{"return": {}, "id": 1}, {"return": []}, {"id": "a", "error": {"class": "GenericError", "desc": "late"}}],
    ids=["success", "success without id", "error"],
)
async def test_a_reply_to_who_was_connected_before_is_no_reply_to_the_guard(tmp_path: Path, late: Any) -> None:
    """QEMU answers a request that it had begun when its client left to the next one, behind the greeting."""
    async with FakeQemu(tmp_path / "q") as qemu:

        def qmp_capabilities(_: object) -> dict[str, object]:
            qemu.send(late)
            qemu.emit("STOP")
            return {}

        qemu.answers["qmp_capabilities"] = qmp_capabilities
        async with guarding(qemu.path) as guard, connected(tmp_path / "guard.sock") as qmp:
            assert "return" in await qmp.ask("query-status")
            assert (guard.vm.counts.links, guard.vm.counts.events) == (1, 1)


async def test_out_of_band_overtakes_what_is_under_way(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.hold.add("query-name")
        qmp.send({"execute": "query-name", "id": 1}, {"exec-oob": "query-yank", "id": 2})
        assert (await qmp.receive())["id"] == 2
        qemu.let_go()
        assert (await qmp.receive())["id"] == 1


async def test_local_answers_wait_for_the_replies_before_them(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.hold.add("query-name")
        qmp.send({"execute": "query-name", "id": 1}, {"foo": 1, "id": 2})
        await qemu.until("query-name")
        qemu.let_go()
        assert (await qmp.receive())["id"] == 1
        assert (await qmp.receive())["error"]["desc"] == "QMP input member 'foo' is unexpected"


async def test_local_answers_wait_for_the_out_of_band_replies_before_them_too(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.silent = True
        qmp.send({"exec-oob": "query-yank", "id": 1}, {"foo": 1, "id": 2})
        await qemu.until("query-yank")
        qemu.let_go()
        assert [(await qmp.receive())["id"] for _ in range(2)] == [1, 2]


async def test_events_keep_their_place_behind_a_local_answer_between_out_of_band_requests(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.silent = True
        one, two = {"exec-oob": "query-yank", "id": 1}, {"exec-oob": "query-yank", "id": 4}
        qmp.send(one, {"foo": 1, "id": 2}, {"execute": "stop", "id": 3}, two)
        await qemu.until("query-yank", 2)
        first, stop, last = (request["id"] for request in qemu.held)
        qemu.send({"return": {}, "id": first})
        qemu.emit("STOP")
        qemu.send({"return": {}, "id": stop})
        qemu.send({"return": {}, "id": last})
        assert [(await qmp.receive()).get("id", "STOP") for _ in range(5)] == [1, 2, "STOP", 3, 4]


async def test_at_most_six_requests_of_clients_are_in_flight_and_all_are_answered(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as one,
        connected(tmp_path / "guard.sock", oob=True) as two,
    ):
        qemu.hold.add("query-name")
        for i in range(20):
            one.send({"execute": "query-name", "id": i})
            two.send({"execute": "query-name", "id": i})
        await qemu.until("query-name", 6)
        await asyncio.sleep(0.05)
        assert qemu.commands().count("query-name") == 6
        qemu.let_go()
        assert [(await one.receive())["id"] for _ in range(20)] == list(range(20))
        assert [(await two.receive())["id"] for _ in range(20)] == list(range(20))


async def test_everything_received_before_a_half_close_is_answered(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        for i in range(200):
            qmp.send({"execute": "query-name", "id": i})
        qmp.writer.write_eof()
        assert [(await qmp.receive())["id"] for _ in range(200)] == list(range(200))
        assert await qmp.receive() is None


@pytest.mark.parametrize("behind", ["query-name", "stop"])
async def test_what_is_being_judged_at_a_half_close_is_answered_and_what_waits_behind_it(
    tmp_path: Path, behind: str
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.hold.add("query-migrate-capabilities")
        qmp.send({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True), "id": 1})
        qmp.send({"execute": behind, "id": 2}, {"execute": "query-name", "id": 3})
        qmp.writer.write_eof()
        await qemu.until("query-migrate-capabilities")
        qemu.let_go()
        assert_refused(await qmp.receive(), "vfio-postcopy")
        assert [(await qmp.receive())["id"] for _ in range(2)] == [2, 3]
        assert await qmp.receive() is None


async def test_the_death_of_qemu_closes_clients_at_once_and_a_new_qemu_is_served(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.hold.add("query-name")
            qmp.send({"execute": "query-name"})
            await qemu.until("query-name")
            qemu.die()
            assert await qmp.closed()
        qemu.hold.clear()
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
        assert guard.vm.counts.links == 2


async def test_a_hundred_thousand_events_at_once_reach_the_client_that_reads_and_its_reply_comes_behind_them(
    tmp_path: Path,
) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": 1}}\r\n'
        qemu.send_bytes(event * 100_000)
        qmp.send({"execute": "query-name", "id": "behind"})
        count = 0
        while (line := await qmp.line()) == event:
            count += 1
        assert json.loads(line) == {"return": {}, "id": "behind"}
        assert count == guard.vm.counts.events == 100_000


async def test_of_a_link_that_is_gone_nothing_is_kept(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.hold.add("add-fd")
            qmp.with_descriptors(b'{"execute": "add-fd"}', 0)
            await qemu.until("add-fd")
            await qemu.stop()
            assert await qmp.closed()
        await eventually(lambda: guard.vm.link is None)
        names = guard.vm.hub._fd_names
        assert (names._under_way, names._givers, names.attentive) == (set(), {}, False)
        await qemu.start()


async def test_a_client_that_comes_before_qemu_is_greeted_when_qemu_comes(tmp_path: Path) -> None:
    qemu = FakeQemu(tmp_path / "q")
    async with guarding(qemu.path, up=False), connected(tmp_path / "guard.sock", negotiate=False) as qmp:
        qmp.send({"execute": "qmp_capabilities"})
        async with qemu:
            assert await qmp.receive() == GREETING
            assert await qmp.receive() == {"return": {}}


async def test_a_client_that_comes_before_qemu_waits_for_it_no_longer_than_the_limit(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard:
        guard.vm.sessions.limits = replace(guard.vm.limits, greeting_wait=0.05)
        async with connected(tmp_path / "guard.sock", negotiate=False) as early:
            assert await early.line() == b""
        assert guard.vm.counts.drops["qemu_absent"] == 1
        assert guard.vm.clients == []


@pytest.mark.parametrize(
    "nonsense",
    [
        b'{"return": {}, "id": 4711}\r\n',
        b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n',
        b"hello\r\n",
        b"[]\r\n",
    ],
)
async def test_an_answer_that_makes_no_sense_drops_the_link(tmp_path: Path, nonsense: bytes) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.send_bytes(nonsense)
            assert await qmp.closed()
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
        assert guard.vm.counts.links == 2


async def test_a_client_that_does_not_read_is_dropped_and_slows_nobody(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as quick,
    ):
        with socket.socket(socket.AF_UNIX) as lazy:
            lazy.connect(str(tmp_path / "guard.sock"))
            lazy.send(b'{"execute":"qmp_capabilities"}')
            await quick.ask("query-name")
            for _ in range(20):
                qemu.emit("BIG", text="x" * (1 << 20))
                assert (await quick.receive())["event"] == "BIG"
            assert len(guard.vm.clients) == 1
            assert await quick.ask("query-name") == {"return": {}}


async def test_many_clients_at_once(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:

        async def chat(i: int) -> None:
            async with connected(tmp_path / "guard.sock") as qmp:
                for n in range(5):
                    assert (await qmp.ask("query-name", id=[i, n]))["id"] == [i, n]

        async with asyncio.TaskGroup() as tasks:
            for i in range(256):
                tasks.create_task(chat(i))
        await eventually(lambda: not guard.vm.clients)


@pytest.mark.parametrize(
    "junk", [b"\0\xff\x80" * 100, b'{"execute": ', b'"' + b"x" * (5 << 20), b"[" * 2000, b"}{][", b"\n" * 100]
)
async def test_junk_is_answered_or_cut_off_and_the_next_client_is_served(tmp_path: Path, junk: bytes) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        async with connected(tmp_path / "guard.sock", negotiate=False) as qmp:
            qmp.raw(junk)
            qmp.writer.write_eof()
            assert await qmp.closed()
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
