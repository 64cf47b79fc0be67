"""A fault stays with the one who made it: an odd message, an exception, a flood of one client, and an odd QEMU."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qmpguard.access import Role
from qmpguard.address import UnixAddress
from qmpguard.config import VmConfig
from qmpguard.daemon.guard import GuardedVm
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.proxy.clients import registry
from qmpguard.proxy.clients.reading import TURN
from qmpguard.proxy.clients.session import Session
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.judging.gate import Gate
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.qemu import heartbeat
from qmpguard.proxy.sockets import stream
from qmpguard.record import LinkChange, Peer
from qmpguard.wire.client_messages import Request, read_request
from qmpguard.wire.framing import MAX_TOKENS, Framer, Message
from qmpguard.wire.lexer import Lexer
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNNING = {"return": {"status": "running", "running": True}}

#: every way that a request can take: judged and accepted, refused, unreadable, passed, out-of-band, HMP, malformed
REQUESTS: dict[str, bytes] = {
    "migrate": b'"execute": "migrate", "arguments": {"uri": "tcp:127.0.0.1:1"}',
    "capability": b'"execute": "migrate-set-capabilities", "arguments": '
    b'{"capabilities": [{"capability": "postcopy-ram", "state": true}]}',
    "device_add": b'"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu9", "host": "1:2.3"}',
    "hidden primary": b'"execute": "device_add", "arguments": '
    b'{"driver": "vfio-pci", "id": "gpu8", "failover_pair_id": "net0"}',
    "monitor": b'"execute": "add_client", "arguments": {"protocol": "chr0", "fdname": "x"}',
    "unreadable": b'"execute": "migrate", "arguments": {"odd": 1}',
    "HMP": b'"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_capability xbzrle on"}',
    "HMP refused": b'"execute": "human-monitor-command", "arguments": {"command-line": "gdbserver"}',
    "query": b'"execute": "query-name"',
    "out-of-band": b'"exec-oob": "query-yank"',
    "judged out-of-band": b'"exec-oob": "migrate-start-postcopy"',
    "no command": b'"execute": 5',
    "unknown": b'"execute": "no-such-command"',
}

IDS: dict[str, bytes] = {
    "null": b"null",
    "5,000 digits": b"1" * 5000,
    "minus 5,000 digits": b"-" + b"1" * 5000,
    "1e400": b"1e400",
    "1,000 lists": b"[" * 1000 + b"]" * 1000,
    "1,000 objects": b'{"a": ' * 1000 + b"0" + b"}" * 1000,
    "64 KiB of text": b'"' + b"\\u00e9" * 11_000 + b'"',
    "controls": b'"\\u0000\\u001b[31m\\r\\n\\u2028\\u007f"',
    "an id like a reply": b'{"return": {}, "id": 1}',
    "an error": b'"Error: \\", \\"id\\": 3}"',
}


async def answered_in_order(client: Client, expected: int) -> list[bytes]:
    """The next replies, without the events between them."""
    lines: list[bytes] = []
    while len(lines) < expected:
        line = await client.line()
        assert line, f"closed after {len(lines)} replies of {expected}"
        if b'"event"' not in line[:120]:
            lines.append(line)
    return lines


@pytest.mark.parametrize("identity", IDS.values(), ids=IDS)
async def test_no_id_of_a_client_is_ever_parsed_again(tmp_path: Path, identity: bytes) -> None:
    """The ids come back; another client of the same VM is served meanwhile, and nothing has failed."""
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.answers["add_client"] = lambda _: {"class": "GenericError", "desc": "no"}
        async with connected(tmp_path / "guard.sock", oob=True) as odd, connected(tmp_path / "guard.sock") as other:
            for name, request in REQUESTS.items():
                odd.raw(b"{" + request + b', "id": ' + identity + b"}")
                (line,) = await answered_in_order(odd, 1)
                assert b'"id": ' in line, name
                assert len(line) >= len(identity) // 6, name
                assert await other.ask("query-status") == RUNNING, name
            odd.raw(b'{"execute": "query-status", "id": "last"}')
            assert json.loads((await answered_in_order(odd, 1))[0]) == {**RUNNING, "id": "last"}
        assert not guard.vm.counts.faults


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
COMMANDS = st.sampled_from(
    [
        "migrate",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "migrate-incoming",
        "migrate-start-postcopy",
        "device_add",
        "device_del",
        "object-add",
        "qom-set",
        "qom-get",
        "qom-list",
        "netdev_add",
        "add_client",
        "human-monitor-command",
        "getfd",
        "add-fd",
        "query-status",
        "nonsense",
    ]
)
MEMBERS = st.sampled_from(
    [
        "capabilities",
        "uri",
        "channels",
        "resume",
        "driver",
        "id",
        "path",
        "property",
        "value",
        "qom-type",
        "protocol",
        "command-line",
        "fdname",
        "fdset-id",
        "failover_pair_id",
        "host",
        "type",
        "guestfwd",
        "postcopy-ram",
    ]
)
ARGUMENTS = st.dictionaries(MEMBERS, VALUES, max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.tuples(COMMANDS, ARGUMENTS, VALUES), min_size=1, max_size=6),
    role=st.sampled_from(Role),
    profile=st.sampled_from(Profile),
)
def test_whatever_a_client_asks_a_verdict_comes_out(
    tmp_path: Path, requests: list[tuple[str, dict[str, Any], Any]], role: Role, profile: Profile
) -> None:
    async def played() -> None:
        async with FakeQemu(tmp_path / "q") as qemu:
            vm = VmConfig("t", UnixAddress(str(qemu.path)), UnixAddress(str(tmp_path / "g")), Policy(profile=profile))
            guard = GuardedVm(VmConfig(**{**_fields(vm), "role": role, "watch": 0.0}))
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(guard.run())
                await guard.vm.connected.wait()
                async with connected(tmp_path / "g") as client:
                    for command, arguments, identity in requests:
                        client.send({"execute": command, "arguments": arguments, "id": identity})
                    for line in await answered_in_order(client, len(requests)):
                        assert b'"return"' in line or b'"error"' in line
                task.cancel()
            assert not guard.vm.counts.faults

    asyncio.run(played())


def _fields(vm: VmConfig) -> dict[str, Any]:
    return {name: getattr(vm, name) for name in vm.__dataclass_fields__}


# exceptions that nobody expects


async def test_an_exception_in_one_clients_callback_closes_that_client_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as one, connected(tmp_path / "guard.sock") as other:
            real = Session.data_received

            def failing(self: Session, data: bytes, descriptors: list[Any]) -> None:
                if b"poison" in data:
                    raise MemoryError
                real(self, data, descriptors)

            monkeypatch.setattr(Session, "data_received", failing)
            one.send({"execute": "poison"})
            assert await one.closed()
            assert await other.ask("query-status") == RUNNING
        assert guard.vm.counts.faults == {"stream": 1}


@pytest.mark.parametrize("method", ["settle", "on_event"])
async def test_an_exception_on_the_way_down_closes_that_client_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as one, connected(tmp_path / "guard.sock") as other:
            (first, _) = sorted(guard.vm.clients, key=lambda each: each.peer.number)
            real = getattr(Session, method)

            def failing(self: Session, *arguments: Any) -> None:
                if self is first:
                    raise RecursionError
                real(self, *arguments)

            monkeypatch.setattr(Session, method, failing)
            if method == "settle":
                one.send({"execute": "query-name"})
            else:
                qemu.emit("RESUME")
                assert (await other.receive())["event"] == "RESUME"
            assert await one.closed()
            assert await other.ask("query-status") == RUNNING
        assert guard.vm.counts.faults == {"session": 1}


async def test_a_verdict_that_fails_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: Gate, *arguments: Any) -> bytes:
        raise KeyError("a bug")

    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock", oob=True) as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Gate, "process", failing)
            for kind in ("execute", "exec-oob"):
                client.send({kind: "migrate-start-postcopy", "id": kind}, {"execute": "query-name", "id": "next"})
                first, second = [json.loads(line) for line in await answered_in_order(client, 2)]
                refused, passed = (first, second) if first["id"] == kind else (second, first)
                assert "the guard failed" in refused["error"]["desc"]
                assert passed == {"return": {}, "id": "next"}
        assert guard.vm.counts.faults == {"judgment": 2}
        assert await client.ask("migrate", {"uri": "exec:cat"}) == {"return": {}}
        assert qemu.commands().count("migrate-start-postcopy") == 0


async def test_what_fails_before_the_verdict_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Gate, request: Request) -> None:
        raise TypeError("unhashable")

    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock", oob=True) as client,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Gate, "read", failing)
            client.send({"execute": "query-name", "id": 1}, {"exec-oob": "query-yank", "id": 2})
            replies = [json.loads(line) for line in await answered_in_order(client, 2)]
            assert sorted(reply["id"] for reply in replies) == [1, 2]
            assert all("the guard failed" in reply["error"]["desc"] for reply in replies)
        assert guard.vm.counts.faults == {"intercept": 2}
        assert await client.ask("query-status") == RUNNING
        assert "query-name" not in qemu.commands()


async def test_a_refused_device_counts_as_refused_whatever_its_id(tmp_path: Path) -> None:
    """QEMU's reply is read as QEMU sent it: with the client's id in it, it might not be readable."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as client,
    ):
        qemu.answers["device_add"] = lambda _: {"class": "GenericError", "desc": "no such host device"}
        for identity in IDS.values():
            client.raw(b"{" + REQUESTS["hidden primary"] + b', "id": ' + identity + b"}")
            assert b"no such host device" in await client.line()
        assert not guard.vm.gate.memory.primaries.devices


async def test_a_request_that_cannot_be_encoded_is_not_sent_and_ends_its_client_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Request.encode

    def failing(self: Request, number: int) -> bytes:
        if self.command == "getfd":
            raise MemoryError
        return real(self, number)

    monkeypatch.setattr(Request, "encode", failing)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as one, connected(tmp_path / "guard.sock") as other:
            one.with_descriptors(b'{"execute": "getfd", "arguments": {"fdname": "x"}}', 0)
            assert await one.closed()
            assert await other.ask("query-status") == RUNNING
            monkeypatch.setattr(Request, "encode", real)
            other.with_descriptors(b'{"execute": "getfd", "arguments": {"fdname": "x"}}', 0)
            assert await other.receive() == {"return": {}}
        assert qemu.connections == 1
        assert guard.vm.counts.faults == {"session": 1}


async def test_a_long_request_is_sent_whole_or_its_link_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Request, number: int) -> Iterator[bytes]:
        yield b'{"execute": "query-name", "arguments": {"x": "'
        yield b"x" * 1000
        raise MemoryError

    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as one:
            with monkeypatch.context() as patch:
                patch.setattr(Request, "pieces", failing)
                one.send({"execute": "query-name", "arguments": {"x": "y" * 100_000}})
                assert await one.closed()
        await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-status") == RUNNING
        assert "query-name" not in qemu.commands()


# floods


FLOODS = {
    "objects": b"{}",
    "stray": b"x ",
    "numbers": b"1 ",
    "lists": b"[]",
    "controls": b"\0",
    "brackets": b"]",
    "refused": b'{"execute":"a"}',
    "negotiation": b'{"execute":"qmp_capabilities"}',
    "no command": b'{"execute":"","a":1}',
}


@pytest.mark.parametrize("unit", FLOODS.values(), ids=FLOODS)
async def test_a_flood_is_answered_a_few_messages_a_turn(
    tmp_path: Path, unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client has no more than `TURN` messages looked at in one wake-up.

    Everybody else has a turn after two of them at the latest: what was left of one read, and the next read.
    """
    seen, worst = 0, 0
    wakeups: Counter[int] = Counter()
    real = Session._has_a_turn

    def counted(self: Session) -> bool:
        nonlocal seen
        may = real(self)
        if may:
            seen += 1
            wakeups[self.hub.outbox.wakeup] += 1
        return may

    monkeypatch.setattr(Session, "_has_a_turn", counted)

    async def others() -> None:
        nonlocal seen, worst
        while True:
            worst, seen = max(worst, seen), 0
            await asyncio.sleep(0)

    async with FakeQemu(tmp_path / "q") as qemu:
        vm = VmConfig("t", UnixAddress(str(qemu.path)), UnixAddress(str(tmp_path / "g")), watch=0.0, role=Role.OBSERVER)
        guard = GuardedVm(vm)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(guard.run())
            await guard.vm.connected.wait()
            watching = tasks.create_task(others())
            async with connected(tmp_path / "g") as client:
                number = 4000 // len(unit) + 1
                client.raw(unit * number)
                client.raw(b'{"execute": "query-status", "id": "last"}')
                while b'"last"' not in await client.line():
                    pass
            watching.cancel()
            task.cancel()
    assert 0 < max(wakeups.values()) <= TURN <= 32
    assert 0 < worst <= 2 * TURN


async def test_departing_costs_the_same_however_many_clients_there_are(tmp_path: Path) -> None:
    """A thousand that leave together must not cost a million steps."""
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        vm = guard.vm
        costs = []
        for crowd in (20, 200):
            pairs = [socket.socketpair() for _ in range(crowd - len(vm.clients))]
            for number, (_, theirs) in enumerate(pairs):
                vm.attach(theirs, Peer(1000 + number))
            one = vm.clients[0]
            costs.append(_lines(lambda one=one: one.close(CloseReason.ENDED)))
            for ours, _ in pairs:
                ours.close()
            await eventually(lambda: not vm.clients)
        assert costs[1] <= costs[0] + 10


def _lines(work: Any) -> int:
    """The lines of Python that something takes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


# a client that has left


async def test_who_has_left_keeps_no_place_while_there_is_no_qemu(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "nobody"))
    async with guarding(address, tmp_path / "guard.sock", up=False) as guard:
        async with connected(tmp_path / "guard.sock", negotiate=False):
            await eventually(lambda: len(guard.vm.clients) == 1)
        await eventually(lambda: not guard.vm.clients)


@pytest.mark.parametrize("half_closed", [False, True])
async def test_who_has_left_keeps_no_place_while_qemu_hangs(tmp_path: Path, half_closed: bool) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock", oob=True) as client:
            qemu.silent = True
            client.send(*({"execute": "query-name", "id": i} for i in range(12)))
            await qemu.until("query-name", 6)
            if half_closed:
                client.writer.write_eof()
                await asyncio.sleep(0)
        await eventually(lambda: not guard.vm.clients)
        assert guard.vm.counts.drops == {}


async def test_who_has_half_closed_is_still_answered(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as client:
        qemu.hold.add("query-name")
        client.send({"execute": "query-name", "id": 1}, {"execute": "query-status", "id": 2})
        client.writer.write_eof()
        await qemu.until("query-name")
        await asyncio.sleep(0.05)
        qemu.let_go()
        assert [json.loads(line)["id"] for line in await answered_in_order(client, 2)] == [1, 2]
        assert await client.receive() is None


# QEMU's last words


async def test_a_write_error_is_not_the_end_of_what_qemu_has_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU sends and ends while the guard does not look; a client's request is handled first, and cannot be sent."""
    socket_path = tmp_path / "guard.sock"
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(socket_path) as one,
        connected(socket_path) as other,
    ):
        for client in (one, other):
            assert await client.ask("query-status") == RUNNING
        link = guard.vm.link
        assert link is not None
        broken = asyncio.Event()
        real = stream.Stream._unwritable

        def noted(self: stream.Stream, error: OSError) -> None:
            broken.set()
            real(self, error)

        monkeypatch.setattr(stream.Stream, "_unwritable", noted)
        real_read = stream.Stream._readable

        def unread(self: stream.Stream) -> None:
            if self is not link._stream or broken.is_set():  # else the client's request is handled first
                real_read(self)

        monkeypatch.setattr(stream.Stream, "_readable", unread)
        qemu.emit("SHUTDOWN", guest=False)
        qemu.die()
        await asyncio.sleep(0.05)
        one.send({"execute": "query-name"})
        for client in (one, other):
            assert (await client.receive())["event"] == "SHUTDOWN"
            assert await client.receive() is None


async def test_a_client_is_sent_what_is_due_to_it_after_the_link_was_lost(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as slow:
        sock = slow.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(400):
            qemu.emit("RTC_CHANGE", offset=number, filler="x" * 2000)
        qemu.emit("SHUTDOWN", guest=True)
        await asyncio.sleep(0.05)
        qemu.die()
        await asyncio.sleep(0.05)
        slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
        events = []
        while (message := await slow.receive()) is not None:
            events.append(message["event"])
        assert events == ["RTC_CHANGE"] * 400 + ["SHUTDOWN"]


async def test_a_client_that_does_not_read_its_last_words_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "LAST_WORDS", 0.1)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as slow,
    ):
        slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(400):
            qemu.emit("RTC_CHANGE", filler="x" * 2000)
        await asyncio.sleep(0.05)
        qemu.die()
        await eventually(lambda: not guard.vm.clients)


# a QEMU that is odd


ODD = {
    "an event without a name": b'{"event": {"a": 1}, "data": {}}\r\n',
    "an event with an odd value": b'{"event": "MIGRATION", "data": [1]}\r\n',
    "an odd status": b'{"event": "MIGRATION", "data": {"status": {"a": []}}}\r\n',
    "a number of 5,000 digits": b'{"id": ' + b"1" * 5000 + b', "error": {}}\r\n',
    "an event with 5,000 digits": b'{"event": "STOP", "data": {"a": ' + b"1" * 5000 + b"}}\r\n",
    "100,000 lists": b'{"event": "STOP", "data": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}\r\n",
    "900 lists": b'{"event": "STOP", "data": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}\r\n",
    "a foreign id": b'{"return": {}, "id": 77777}\r\n',
    "not UTF-8": b'{"event": "\xff\xfe"}\r\n',
    "no object": b"[]\r\n",
    "no JSON": b"HTTP/1.1 400 Bad Request\r\n",
    "a number": b"12\r\n",
    "an empty line": b"\r\n",
    "an error without an id": b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n',
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_what_qemu_says_oddly_loses_no_reply_without_a_closed_connection(tmp_path: Path, odd: bytes) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as client:
            qemu.hold.add("query-name")
            client.send({"execute": "query-name", "id": 1})
            await qemu.until("query-name")
            qemu.send_bytes(odd)
            qemu.let_go()
            lines = []
            while line := await client.line():
                lines.append(line)
                if b'"id": 1}' in line:
                    break
            else:
                await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as client:
            assert await client.ask("query-status") == RUNNING
        assert not guard.vm.counts.faults


@pytest.mark.parametrize(
    "reply",
    [b'{"return": %b, "id": %d}\r\n' % (value, 0) for value in (b"1" * 5000, b"[" * 5000 + b"]" * 5000, b"nonsense")],
    ids=["digits", "lists", "no JSON"],
)
async def test_a_reply_to_a_judged_request_that_cannot_be_read_concerns_nobody_else(
    tmp_path: Path, reply: bytes
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as client, connected(tmp_path / "guard.sock") as other:
            qemu.hold.add("device_add")
            client.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "g", "host": "1:2.3"}})
            await qemu.until("device_add")
            number = next(each["id"] for each in qemu.seen if each.get("execute") == "device_add")
            qemu.send_bytes(reply.replace(b'"id": 0', b'"id": %d' % number))
            assert await client.line()
            assert await other.ask("query-status") == RUNNING
            assert await other.ask("migrate", {"uri": "exec:cat"}) == {"return": {}}
        assert not guard.vm.counts.faults


async def test_a_question_that_qemu_skips_makes_the_link_anew(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, survey_timeout=0.3) as guard:
        async with connected(tmp_path / "guard.sock") as client:
            qemu.hold.add("query-migrate-capabilities")
            client.send({"execute": "migrate", "arguments": {"uri": "exec:cat"}, "id": 1})
            await qemu.until("query-migrate-capabilities")
            async with connected(tmp_path / "guard.sock") as other:
                assert await other.ask("query-status") == RUNNING
                assert await other.closed()
            qemu.hold.clear()
        await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as client:
            assert await client.ask("migrate", {"uri": "exec:cat"}) == {"return": {}}
        downs = [e.what.what for e in guard.vm.journal.since(0) if isinstance(e.what, LinkChange) and not e.what.up]
        assert len(downs) == 1
        assert "query-migrate-capabilities" in downs[0]


async def test_a_qemu_that_is_merely_busy_keeps_its_link(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, survey_timeout=0.1) as guard:
        async with connected(tmp_path / "guard.sock") as client:
            qemu.silent = True
            for _ in range(3):
                error = (await client.ask("migrate", {"uri": "exec:cat"}))["error"]
                assert "did not answer" in error["desc"]
            qemu.silent = False
            qemu.let_go()
            assert await client.ask("migrate", {"uri": "exec:cat"}) == {"return": {}}
        assert qemu.connections == 1
        assert guard.vm.link is not None


async def test_the_negotiation_is_held_back_while_qemu_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools tell by its handshake whether a QEMU hangs."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_TIMEOUT", 0.05)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.silent = True
        await eventually(lambda: not guard.vm.hub.is_alive)
        async with connected(tmp_path / "guard.sock", negotiate=False) as client:
            assert "QMP" in await client.receive()
            client.send({"execute": "qmp_capabilities"}, {"execute": "query-status"})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.reader.readline()
            qemu.silent = False
            qemu.let_go()
            assert await client.receive() == {"return": {}}
            assert await client.receive() == RUNNING


# order


async def test_a_judged_out_of_band_request_lets_nothing_overtake(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as client,
    ):
        for bad in ({"x": 1}, {}):
            qemu.hold.add("query-migrate-capabilities")
            client.send({"execute": "migrate", "arguments": {"uri": "exec:cat"}, "id": "migrate"})
            await qemu.until("query-migrate-capabilities", qemu.commands().count("query-migrate-capabilities") or 1)
            client.send({"exec-oob": "migrate-start-postcopy", "arguments": bad, "id": "oob"})
            client.send({"execute": "system_reset", "id": "reset"})
            await asyncio.sleep(0.05)
            qemu.let_go()
            await answered_in_order(client, 3)
        assert [name for name in qemu.commands() if name in ("migrate", "system_reset")] == [
            "migrate",
            "system_reset",
        ] * 2


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("leaver", range(4))
async def test_requests_with_descriptors_go_on_whoever_leaves(tmp_path: Path, leaver: int, profile: Profile) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, policy=Policy(profile=profile)) as guard:
        qemu.hold.add("getfd")
        qemu.schema.append({"name": "getfd", "meta-type": "command", "arg-type": "0", "ret-type": "1"})
        clients = []
        for number in range(4):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "guard.sock")
            client = Client(reader, writer)
            clients.append(client)
            assert "QMP" in await client.receive()
            assert await client.ask("qmp_capabilities") == {"return": {}}
            client.with_descriptors(b'{"execute": "getfd", "arguments": {"fdname": "n%d"}}' % number, 0)
            while guard.vm.counts.descriptors_received <= number:  # noqa: ASYNC110 -- nothing announces it
                await asyncio.sleep(0.005)
            await qemu.until("getfd")
        clients[leaver].writer.transport.abort()
        await eventually(lambda: len(guard.vm.clients) == 3)
        for count in range(1, 4 + (leaver == 0)):
            qemu.let_go()
            qemu.hold.add("getfd")
            if count < 3 + (leaver == 0):
                await qemu.until("getfd", count + 1)
        for number, client in enumerate(clients):
            if number != leaver:
                assert await client.receive() == {"return": {}}
                assert "return" in await client.ask("query-status")
            client.writer.close()


def tokens(data: bytes) -> int:
    lexer = Lexer(1 << 20)
    lexer.feed(data)
    lexer.turn()
    return sum(1 for _ in iter(lexer.next, None))


@given(command=COMMANDS, arguments=st.none() | ARGUMENTS, number=st.integers(0, 1 << 40))
def test_the_tokens_that_the_guard_adds_never_break_a_limit_of_qemu(
    command: str, arguments: dict[str, Any] | None, number: int
) -> None:
    request = {"execute": command} if arguments is None else {"execute": command, "arguments": arguments}
    framer = Framer()
    framer.feed(sent := json.dumps(request).encode())
    message = framer.pull_whole()
    assume(isinstance(message, Message))  # a text may have a noncharacter, which QEMU refuses: nothing of it is sent
    assert isinstance(message, Message)
    read = read_request(message.value, oob=False)
    assert isinstance(read, Request)
    assert tokens(read.encode(number)) <= tokens(sent) + 4
    assert MAX_TOKENS + 4 == 2 << 20


def strict_guards(folder: Path) -> list[GuardedVm]:
    """Two VMs in profile strict, a and b, that share the schemas of their QEMUs."""
    schemas, strict = Schemas(), Policy(profile=Profile.STRICT)
    return [
        GuardedVm(
            VmConfig(n, UnixAddress(str(folder / f"q{n}")), UnixAddress(str(folder / f"g{n}")), strict, 30, 0), schemas
        )
        for n in "ab"
    ]


async def test_no_vm_waits_for_the_schema_of_another(tmp_path: Path) -> None:
    """In strict: one QEMU hangs at its schema, another of the same version serves its clients."""
    async with FakeQemu(tmp_path / "qa") as hung, FakeQemu(tmp_path / "qb") as well:
        guards = strict_guards(tmp_path)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(guard.run()) for guard in guards]
            for guard in guards:
                await guard.vm.connected.wait()
            hung.hold.add("query-qmp-schema")
            async with connected(tmp_path / "ga") as a, connected(tmp_path / "gb") as b:
                a.send({"execute": "query-status"})
                await eventually(lambda: any(r.get("execute") == "query-qmp-schema" for r in hung.seen))
                assert await b.ask("query-status") == RUNNING
                hung.let_go()
                assert await a.receive() == RUNNING
            assert len(well.seen) > 1
            for task in running:
                task.cancel()


async def test_qemus_of_one_version_and_two_targets_have_two_schemas(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "qa") as arm, FakeQemu(tmp_path / "qb") as x86:
        arm.answers["query-target"] = lambda _: {"arch": "aarch64"}
        x86.answers["query-target"] = lambda _: {"arch": "x86_64"}
        x86.schema.append({"name": "rtc-reset", "meta-type": "command", "arg-type": "0", "ret-type": "1"})
        guards = strict_guards(tmp_path)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(guard.run()) for guard in guards]
            for guard in guards:
                await guard.vm.connected.wait()
            async with connected(tmp_path / "ga") as a, connected(tmp_path / "gb") as b:
                assert await a.ask("query-status") == RUNNING
                assert await b.ask("rtc-reset") == {"return": {}}
                assert (await a.ask("rtc-reset"))["error"]["class"] == "CommandNotFound"
            for task in running:
                task.cancel()


async def test_postcopy_is_refused_all_the_same_after_all_this(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as client:
        qemu.devices["gpu0"] = "vfio-pci"
        assert "error" in await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
