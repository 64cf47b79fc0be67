"""What is answered, from memory."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from qmpguard.admin import routes, sse
from qmpguard.policy.verdict import Verdict
from qmpguard.record import Decision, Peer
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually, guarding
from tests.support.visiting import visiting

if TYPE_CHECKING:
    from pathlib import Path

FAST = 0.02
POSTCOPY = capabilities(postcopy_ram=True)


async def test_a_vm_is_told_whole(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with guarding(qemu.path, watch=FAST) as guard, visiting(tmp_path, guard) as visitor:
            await eventually(lambda: guard.vm.gate.last_seen.facts.migration is not None)
            async with connected(tmp_path / "guard.sock"):
                status, body = await visitor.get("/api/v1/vms")
            (vm,) = body["vms"]
            assert (status, vm["name"], vm["state"], vm["heartbeat"]) == (200, "test", "ready", "ok")
            assert vm["qemu"] == {"version": "8.1.0", "package": "fake"}
            assert [device["name"] for device in vm["devices"]] == ["gpu0"]
            assert [client["state"] for client in vm["clients"]] == ["commands"]
            assert {way["way"]: way["answer"] for way in vm["may_migrate"]} == {
                "as it stands now": "yes",
                "plain": "yes",
                "postcopy": "no",
                "background snapshot": "no",
            }
            assert (await visitor.get("/api/v1/vms/test"))[1]["name"] == "test"
            assert (await visitor.get("/api/v1/vms/other"))[0] == 404


async def test_what_is_set_is_told_as_it_stands_and_what_would_help(tmp_path: Path) -> None:
    """A bare migrate is refused while postcopy-ram is on; the plain way is open once it is off."""
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.capabilities["postcopy-ram"] = True
        async with guarding(qemu.path, watch=FAST) as guard, visiting(tmp_path, guard) as visitor:
            await eventually(lambda: guard.vm.gate.last_seen.facts.migration is not None)
            (vm,) = (await visitor.get("/api/v1/vms"))[1]["vms"]
            metrics = (await visitor.get("/metrics"))[1]
    told = {way["way"]: (way["answer"], way["once"]) for way in vm["may_migrate"]}
    assert told["as it stands now"] == ("no", [])
    assert told["plain"] == ("yes", ["postcopy-ram is off"])
    assert 'qmpguard_may_migrate{vm="test",way="as-it-stands-now"} 0.0' in metrics
    assert 'qmpguard_may_migrate{vm="test",way="plain"} 1.0' in metrics


async def test_a_decision_is_told_with_its_reason_and_what_to_do(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
        assert_refused(reply, "vfio-postcopy")
        (decision,) = (await visitor.get("/api/v1/decisions"))[1]["decisions"]
        assert decision["text"] == reply["error"]["desc"]
        assert (decision["outcome"], decision["client"]["number"]) == ("refused", 1)
        assert decision["findings"][0]["fix"] == "turn it off with migrate-set-capabilities, or unplug the device"
        place = decision["id"]
        assert (await visitor.get(f"/api/v1/decisions?since={place}"))[1] == {"decisions": [], "last": place}
        assert len((await visitor.get("/api/v1/decisions?since=ffffff-999"))[1]["decisions"]) == 1
        assert len((await visitor.get("/api/v1/decisions?limit=1&vm=test"))[1]["decisions"]) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/decisions?since=x", 400),
        ("/api/v1/decisions?since=1&since=2", 400),
        ("/api/v1/decisions?limit=0", 400),
        ("/api/v1/decisions?limit=1001", 400),
        ("/api/v1/decisions?limit=10000000", 400),
        ("/api/v1/decisions?before=x", 400),
        ("/api/v1/stream?latest=0", 400),
        ("/api/v1/decisions?else=1", 400),
        ("/api/v1/decisions?vm=other", 404),
        ("/api/v1/stream?kinds=all", 400),
        ("/api/v1/stream?vm=other", 404),
        ("/api/v2/vms", 404),
    ],
)
async def test_what_cannot_be_read_is_said(tmp_path: Path, path: str, status: int) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        answer, body = await visitor.get(path)
        assert (answer, set(body)) == (status, {"error"})


async def test_the_rules_are_those_of_the_table_with_their_modes(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        rules = {rule["id"]: rule for rule in (await visitor.get("/api/v1/rules"))[1]["rules"]}
        assert rules["vfio-postcopy"]["modes"] == {"test": "enforce"}
        assert rules["hmp-write"]["modes"] == {"test": "off"}


async def test_nothing_that_is_asked_here_reaches_qemu(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        async with visitor.stream() as stream:
            await stream.next("vm")
            for path in ("/healthz", "/readyz", "/metrics", "/api/v1/vms", "/api/v1/decisions", "/api/v1/rules"):
                await visitor.get(path)
        assert qemu.commands() == []


async def test_a_qemu_that_answers_nothing_delays_nobody(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.silent = True
        qmp.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY})
        await qemu.until("qom-list")
        for path in ("/healthz", "/metrics", "/api/v1/vms", "/api/v1/decisions", "/api/v1/rules"):
            assert (await visitor.get(path))[0] == 200
        qemu.die()


# the stream


async def test_the_stream_begins_with_the_vms_and_tells_what_happens(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as qmp,
        visitor.stream() as stream,
    ):
        assert await stream.next() == {"names": ["test"], "event": "vms", "place": None}
        assert (await stream.next())["event"] == "vm"
        qemu.devices["gpu0"] = "vfio-pci"
        await qmp.ask("migrate-set-capabilities", POSTCOPY)
        decision = await stream.next("decision")
        assert (decision["outcome"], decision["place"]) == ("refused", decision["ref"])
        qemu.emit("STOP")
        assert (await stream.next("event"))["name"] == "STOP"
        await qemu.stop()
        assert (await stream.next("link"))["up"] is False
        while (await stream.next("vm"))["state"] != "down":
            pass
        await qemu.start()
        while (await stream.next("vm"))["state"] != "ready":
            pass


async def test_a_stream_is_resumed_where_it_was_left(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        await qmp.ask("migrate", {"uri": "tcp:one:1"})
        async with visitor.stream("?since=0&kinds=decision,link") as stream:
            assert (await stream.next("link"))["up"]
            place = (await stream.next("decision"))["place"]
        await qmp.ask("migrate", {"uri": "tcp:two:1"})
        async with visitor.stream("?since=0&kinds=decision", **{"Last-Event-ID": place}) as stream:
            second = await stream.next("decision")
            assert second["place"] != place
        async with visitor.stream(f"?since={second['place']}&kinds=decision") as stream:
            assert (await stream.next())["event"] == "vms"


async def test_of_a_long_past_the_latest_can_be_had_and_what_came_before_it(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        journal = guard.vm.journal
        numbers = [
            journal.add(1.0, Decision(journal.next_ref, Peer(1), "migrate", Verdict(), "")).number for _ in range(9)
        ]
        async with visitor.stream("?kinds=decision&latest=3") as stream:
            told = [(await stream.next("decision"))["place"] for _ in range(3)]
            assert told == [journal.run.ref(number) for number in numbers[-3:]]
            assert (await stream.next())["event"] == "vms"
            assert (await stream.next())["event"] == "vm"
            new = journal.add(1.0, Decision(journal.next_ref, Peer(1), "migrate", Verdict(), ""))
            assert (await stream.next("decision"))["place"] == journal.run.ref(new.number)
        async with visitor.stream(f"?kinds=decision&latest=3&since={numbers[-2]}") as stream:
            assert (await stream.next())["place"] == journal.run.ref(numbers[-1])
        before = (await visitor.get(f"/api/v1/decisions?before={told[0]}&limit=2"))[1]["decisions"]
        assert [one["id"] for one in before] == [journal.run.ref(number) for number in numbers[-5:-3]]
        assert (await visitor.get(f"/api/v1/decisions?before={numbers[0]}"))[1]["decisions"] == []
        assert (await visitor.get("/api/v1/decisions?before=fff-9"))[1]["decisions"] == []


async def test_one_who_does_not_read_is_dropped_and_slows_nobody(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
    ):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock", limit=1024)
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()  # and no more
        async with visitor.stream("?kinds=link") as other:
            await other.next("vm")
            big = "x" * 3000
            for _ in range(20):
                for n in range(100):
                    qemu.emit("RTC_CHANGE", n=n, big=big)
                await eventually(lambda: guard.vm.counts.events % 100 == 0)
                await asyncio.sleep(0)
            await eventually(lambda: guard.vm.counts.events == 2000)
            qemu.die()
            assert (await other.next("link"))["up"] is False
        with suppress(ConnectionError):  # or its end, where the abort came between two reads
            while await reader.read(1 << 20):
                pass
        writer.close()


async def test_a_silent_stream_says_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "KEEP_ALIVE", FAST)
    async with (
        guarding(tmp_path / "q", up=False) as guard,
        visiting(tmp_path, guard) as visitor,
        visitor.stream() as stream,
    ):
        while await stream.response.content.readline() != b": alive\n":
            pass


async def test_there_is_an_end_to_the_number_of_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_STREAMS", 1)
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        async with visitor.stream():
            assert (await visitor.get("/api/v1/stream"))[0] == 503
        await eventually(lambda: not guard.vm.journal._listeners)
        async with visitor.stream() as stream:
            assert await stream.next("vm")


async def test_when_the_guard_ends_its_streams_end(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"event: vm")
    assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
    writer.close()
    assert not (tmp_path / "admin.sock").exists()


async def test_a_stream_follows_vms_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "POLL_INTERVAL", FAST)
    async with (
        guarding(tmp_path / "q1", tmp_path / "g1", up=False) as one,
        guarding(tmp_path / "q2", tmp_path / "g2", up=False) as two,
    ):
        vms = [one.vm]
        ours = sse.EventFeed(lambda: vms, one.vm.journal.run)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(ours.run())
            with ours.stream(since=None, vm=None, kinds=frozenset({"link"}), drop=lambda: None) as stream:
                first = await ours.next(stream, TIMEOUT)
                assert first is not None
                assert [json.loads(m.split(b"data: ")[1])["name"] for m in first.split(b"\n\n")[1:-1]] == ["test"]
                vms.append(two.vm)
                await eventually(lambda: bool(two.vm.journal._listeners))
                vms.remove(one.vm)
                await eventually(lambda: not one.vm.journal._listeners)
                await eventually(lambda: stream.next_stale is not None)
            assert not two.vm.journal._listeners
            task.cancel()
