"""A simulated monitor: what a program can make it do at a moment of its own, with any machine behind it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import UnixAddress
from qmpguard.simulator.description import FaultKind, QemuFault
from qmpguard.simulator.devices import RefusedBySimulator
from qmpguard.simulator.monitor import SimulatedMonitor
from tests.support.guarding import TIMEOUT, connected, eventually

if TYPE_CHECKING:
    from pathlib import Path


class Parrot:
    """A machine that returns the command itself."""

    version, package, has_quit = "11.1.0", "", False

    def execute(self, command: str, arguments: dict[str, Any], *, oob: bool = False) -> Any:
        if command == "refuse":
            raise RefusedBySimulator("never", "DeviceNotFound")
        return [command, arguments, oob]


def monitor(folder: Path, *faults: QemuFault) -> SimulatedMonitor:
    return SimulatedMonitor(UnixAddress(str(folder / "s")), Parrot(), faults)


async def test_the_machine_is_asked_what_commands_return(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s", oob=True) as client:
        assert await client.ask("a", {"b": 1}, id=7) == {"return": ["a", {"b": 1}, False], "id": 7}
        client.send({"exec-oob": "o"})
        assert await client.receive() == {"return": ["o", {}, True]}
        assert await client.ask("refuse") == {"error": {"class": "DeviceNotFound", "desc": "never"}}
        assert qemu.commands() == ["a", "o", "refuse"]
        assert qemu.seen[1] == {"execute": "a", "arguments": {"b": 1}, "id": 7}


async def test_what_is_held_is_answered_when_and_in_the_order_that_is_said(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s", oob=True) as client:
        qemu.hold |= {"a", "b"}
        client.send({"execute": "a", "id": 1}, {"execute": "b", "id": 2}, {"exec-oob": "a", "id": 3})
        assert (await client.receive())["id"] == 3
        assert [message["id"] for message in qemu.held] == [1, 2]
        qemu.let_go("b")
        assert (await client.receive())["id"] == 2
        qemu.let_go()
        assert (await client.receive())["id"] == 1
        assert (await client.ask("a", id=4))["id"] == 4


async def test_a_stopped_one_answers_nothing_and_then_all(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s", negotiate=False) as client:
        qemu.silent = True
        client.send({"execute": "qmp_capabilities"}, {"execute": "a"})
        async with asyncio.timeout(TIMEOUT):
            await qemu.until("a")
        qemu.silent = False
        qemu.let_go()
        assert "QMP" in await client.receive()
        assert await client.receive() == {"return": {}}
        assert (await client.receive())["return"][0] == "a"


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ({"x": 1}, b'{"return": {"x": 1}, "id": 1}\r\n'),
        ({"class": "GenericError", "desc": "no"}, b'{"id": 1, "error": {"class": "GenericError", "desc": "no"}}\r\n'),
        (b"\xffnothing\r\n", b"\xffnothing\r\n"),
    ],
    ids=["value", "error", "bytes"],
)
async def test_an_answer_of_ones_own_takes_the_place_of_the_machines(tmp_path: Path, answer: Any, reply: bytes) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s") as client:
        qemu.answers["a"] = lambda message: answer if message["arguments"] else None
        client.send({"execute": "a", "arguments": {"b": 1}, "id": 1})
        assert await client.line() == reply
        client.send({"execute": "a", "id": 2})
        assert "no answer: KeyError('arguments')" in (await client.receive())["error"]["desc"]


async def test_the_negotiation_can_be_answered_otherwise_too(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s", negotiate=False) as client:
        assert "QMP" in await client.receive()
        qemu.answers["qmp_capabilities"] = lambda _: {"class": "GenericError", "desc": "not today"}
        assert (await client.ask("qmp_capabilities"))["error"]["desc"] == "not today"
        assert (await client.ask("a"))["error"]["class"] == "CommandNotFound"
        qemu.answers["qmp_capabilities"] = lambda _: {"odd": 1}
        assert await client.ask("qmp_capabilities") == {"return": {"odd": 1}}
        assert (await client.ask("a"))["return"][0] == "a"


async def test_a_pretty_one_writes_each_message_over_several_lines(tmp_path: Path) -> None:
    qemu = monitor(tmp_path)
    qemu.pretty = True
    async with qemu, connected(tmp_path / "s") as client:
        client.send({"execute": "a"})
        assert await client.line() == b"{\r\n"
        lines = [await client.line() for _ in range(6)]
        assert json.loads(b"{" + b"".join(lines)) == {"return": ["a", {}, False]}


async def test_events_come_after_the_negotiation_and_bytes_at_any_time(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s", negotiate=False) as client:
        assert "QMP" in await client.receive()
        qemu.send_event("EARLY")
        qemu.send_bytes(b'{"odd": ')
        qemu.send_bytes(b"1}\r\n")
        assert await client.receive() == {"odd": 1}
        assert await client.ask("qmp_capabilities") == {"return": {}}
        qemu.send_event("STOP", {"x": 1})
        event = await client.receive()
        assert (event["event"], event["data"]) == ("STOP", {"x": 1})


async def test_another_client_waits_for_its_turn_also_behind_one_that_reads_nothing(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s") as first:
        transport = first.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        qemu.send_bytes(b" " * (16 << 20))  # more than the socket takes
        async with connected(tmp_path / "s", negotiate=False) as second:
            await eventually(lambda: len(qemu._clients._open) == 2)
            assert qemu.connections == 1
            qemu.hang_up()
            assert "QMP" in await second.receive()
            assert qemu.connections == 2


async def test_it_ends_though_a_client_reads_nothing(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu, connected(tmp_path / "s") as client:
        transport = client.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        qemu.send_bytes(b" " * (16 << 20))  # more than the socket takes
        async with asyncio.timeout(TIMEOUT):
            await qemu.stop()


async def test_what_one_client_has_asked_is_answered_to_the_next_as_by_qemu(tmp_path: Path) -> None:
    async with monitor(tmp_path) as qemu:
        qemu.hold.add("a")
        async with connected(tmp_path / "s") as first:
            first.send({"execute": "a", "id": "mine"})
            async with asyncio.timeout(TIMEOUT):
                await qemu.until("a")
        async with connected(tmp_path / "s", negotiate=False) as second:
            assert "QMP" in await second.receive()
            qemu.let_go()
            assert (await second.receive())["id"] == "mine"


async def test_a_fault_at_a_command_strikes_with_any_machine(tmp_path: Path) -> None:
    async with (
        monitor(tmp_path, QemuFault("a", FaultKind.SILENT), QemuFault("b", FaultKind.DIES)) as qemu,
        connected(tmp_path / "s") as client,
    ):
        client.send({"execute": "a", "id": 1}, {"execute": "c", "id": 2}, {"execute": "b", "id": 3})
        assert (await client.receive())["id"] == 2
        assert await client.closed()
        assert qemu.ended.is_set()


async def test_it_may_be_slow_at_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with monitor(tmp_path) as qemu, connected(tmp_path / "s") as client:
        qemu.delay = 3600.0
        monkeypatch.setattr(asyncio, "sleep", sleep)
        assert (await client.ask("a"))["return"][0] == "a"
        monkeypatch.undo()
    assert 3600.0 in slept


async def test_after_its_end_it_can_begin_again(tmp_path: Path) -> None:
    qemu = monitor(tmp_path)
    for _ in range(2):
        async with qemu, connected(tmp_path / "s") as client:
            assert (await client.ask("a"))["return"][0] == "a"
            assert not qemu.ended.is_set()
        assert qemu.ended.is_set()
        (tmp_path / "s").unlink(missing_ok=True)
