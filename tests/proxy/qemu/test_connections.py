"""The rule: whatever is in QEMU's place, or fails on the way there, is that VM's absence, named and healed."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import Inbound, TcpAddress, UnixAddress
from qmpguard.daemon import guard as guards
from qmpguard.proxy import serving
from qmpguard.proxy.hub import Hub
from qmpguard.proxy.judging.drift_watch import DriftWatch
from qmpguard.proxy.judging.gate import Gate
from qmpguard.proxy.qemu import absence, connections, negotiation
from qmpguard.proxy.qemu.absence import INTERVAL, Absence, BackOff, Cause, Notices
from qmpguard.proxy.qemu.connections import Presence, QemuConnections
from qmpguard.proxy.qemu.heartbeat import Heartbeat
from qmpguard.proxy.sockets import dial
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path


def greeting(**version: Any) -> bytes:
    qemu = {"major": 8, "minor": 1, "micro": 0, **version}
    return json.dumps({"QMP": {"version": {"qemu": qemu, "package": ""}, "capabilities": []}}).encode() + b"\r\n"


GOOD = greeting()
#: what answers in QEMU's place: what it says at once, whether it then closes, and the cause that is shown
PRETENDERS: dict[str, tuple[bytes, bool, Cause]] = {
    "accepts and closes": (b"", True, Cause.CLOSED),
    "says nothing": (b"", False, Cause.OCCUPIED),
    "HMP": (b"QEMU 8.2.0 monitor - type 'help' for more information\r\n(qemu) ", False, Cause.FOREIGN),
    "HMP without a line's end": (b"(qemu) ", False, Cause.FOREIGN),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, Cause.FOREIGN),
    "VNC": (b"RFB 003.008\n", False, Cause.FOREIGN),
    "no line's end": (b"a" * (negotiation.MAX_GREETING + 1), False, Cause.FOREIGN),
    "no end of a pretty message": (b"{\n" + b" \n" * negotiation.MAX_GREETING, False, Cause.FOREIGN),
    "deep": (b"[" * 100_000 + b"\r\n", False, Cause.FOREIGN),
    "a number without end": (b'{"QMP": ' + b"1" * 100_000 + b"}\r\n", False, Cause.FOREIGN),
    "an event first": (b'{"event": "STOP"}\r\n', False, Cause.FOREIGN),
    "major x": (greeting(major="x"), False, Cause.FOREIGN),
    "major 1e400": (GOOD.replace(b'"major": 8', b'"major": 1e400'), False, Cause.FOREIGN),
    "major NaN": (GOOD.replace(b'"major": 8', b'"major": NaN'), False, Cause.FOREIGN),
    "a huge major": (greeting(major=10**4000), False, Cause.FOREIGN),
    "a major of 5,000 digits": (GOOD.replace(b'"major": 8', b'"major": ' + b"8" * 5000), False, Cause.FOREIGN),
    "no UTF-8": (b'{"QMP": "\xff"}\r\n', False, Cause.FOREIGN),
    "greets and closes": (GOOD, True, Cause.CLOSED),
    "greets and hangs": (GOOD, False, Cause.HUNG),
    "greets and talks on": (GOOD + b'{"event": "STOP"}\r\n' * (negotiation.MAX_MESSAGES + 1), False, Cause.HUNG),
    "greets and sends no message": (GOOD + b"a" * (1 << 21), False, Cause.HUNG),
    "greets twice": (GOOD + GOOD, False, Cause.HUNG),
}


@asynccontextmanager
async def pretending(path: Path, said: bytes, *, closes: bool) -> AsyncGenerator[Counter[str]]:
    """Something in QEMU's place, and how often it was connected to."""
    count: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count["connections"] += 1
        with suppress(ConnectionError):
            writer.write(said)
            await writer.drain()
            if not closes:
                await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield count
    finally:
        server.close()
        path.unlink(missing_ok=True)  # from Python 3.13 on the server has removed it


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the times that people have."""
    monkeypatch.setattr(negotiation, "GREETING_TIMEOUT", 0.2)
    monkeypatch.setattr(negotiation, "MAX_BEFORE", 1 << 20)
    monkeypatch.setattr(absence, "LONGEST_UNFIT", 0.05)
    monkeypatch.setattr(guards, "RESTART_DELAY", 0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", PRETENDERS)
async def test_what_is_in_qemus_place_is_named_and_qemu_is_found_when_it_comes(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, closes, cause = PRETENDERS[name]
    caplog.set_level(logging.INFO)
    async with guarding(tmp_path / "q", up=False) as guard:
        async with pretending(tmp_path / "q", said, closes=closes) as count:
            await eventually(lambda: guard.vm.snapshot().link.cause == cause.value)
            await eventually(lambda: count["connections"] >= 3)
            assert guard.vm.snapshot().faults
        told = [record.getMessage() for record in caplog.records if "waiting for QEMU" in record.getMessage()]
        assert len(told) == len(set(told)) <= 3, "once for each cause"
        assert max(map(len, told)) < 500
        async with FakeQemu(tmp_path / "q"), connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
        assert not guard.vm.counts.faults


@pytest.mark.usefixtures("soon")
async def test_the_mistake_of_an_hmp_socket_is_told_in_words_that_help(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, pretending(tmp_path / "q", b"(qemu) ", closes=True):
        await eventually(lambda: "use -qmp, not -monitor" in guard.vm.snapshot().faults[0])


@pytest.mark.usefixtures("soon")
async def test_a_refused_negotiation_is_said_to_be_one(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, up=False) as guard:
        qemu.answers["qmp_capabilities"] = lambda _: {"class": "GenericError", "desc": "no"}
        await eventually(lambda: guard.vm.snapshot().link.cause == Cause.REFUSED.value)
        qemu.answers.clear()
        await eventually(guard.vm.connected.is_set)


async def test_silence_shows_before_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "SILENCE", 0.01)
    async with guarding(tmp_path / "q", up=False) as guard, pretending(tmp_path / "q", b"", closes=False):
        await eventually(lambda: guard.vm.snapshot().link.cause == Cause.OCCUPIED.value)


async def test_no_socket_no_listener_and_a_full_backlog_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "q"
    async with guarding(path, up=False) as guard:
        await eventually(lambda: guard.vm.snapshot().link.cause == Cause.MISSING.value)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            await eventually(lambda: guard.vm.snapshot().link.cause == Cause.NOBODY.value)
            sock.listen(0)
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(path))
                path.unlink()
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as other:
        sock.bind(str(path))
        sock.listen(0)
        other.connect(str(path))
        async with guarding(path, up=False) as guard:
            await eventually(lambda: guard.vm.snapshot().link.cause == Cause.OCCUPIED.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EACCES, errno.ENOTSOCK])
async def test_an_error_of_the_system_is_weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    async def failing(_: object) -> socket.socket:
        raise OSError(number, "as the test says")

    async with FakeQemu(tmp_path / "q") as qemu:
        monkeypatch.setattr(connections, "connect", failing)
        async with guarding(qemu.path, up=False) as guard:
            await eventually(lambda: guard.vm.snapshot().link.reason != "QEMU has not appeared yet")
            monkeypatch.setattr(connections, "connect", dial.connect)
            await eventually(guard.vm.connected.is_set)
            assert not guard.vm.counts.faults


def raising(*_: object, **__: object) -> None:
    raise KeyError("as the test says")


async def raising_later(*_: object, **__: object) -> None:
    await asyncio.sleep(0)
    raise KeyError("as the test says")


#: every step on the way to QEMU, by whose exception nothing but the link may end
STEPS: dict[str, tuple[object, str, Callable[..., object], bool]] = {
    "connect": (connections, "connect", raising_later, False),
    "negotiate": (connections, "negotiate", raising_later, False),
    "peer_identity": (connections, "peer_identity", raising, False),
    "renew": (Gate, "renew", raising, False),
    "stream": (serving, "Stream", raising, False),
    "link": (serving, "Link", raising, False),
    "hub": (Hub, "connect", raising, False),
    "inherited": (QemuConnections, "_connection", raising, False),
    "own session": (serving, "Control", raising, False),
    "watch": (DriftWatch, "run", raising_later, True),
    "heartbeat": (Heartbeat, "run", raising_later, True),
    "serve": (serving.Serving, "run", raising_later, True),
}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
async def test_a_fault_of_the_guard_on_the_way_to_one_qemu_concerns_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    where, name, fault, _ = STEPS[step]
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        FakeQemu(tmp_path / "r") as other,
        guarding(other.path, tmp_path / "other.sock"),
        connected(tmp_path / "other.sock") as bystander,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, fault)
            async with guarding(qemu.path, up=False) as guard:
                await eventually(lambda: sum(guard.vm.counts.faults.values()) >= 2)
                assert "as the test says" in str(guard.vm.snapshot().link.reason) or step in (
                    "watch",
                    "heartbeat",
                    "control",
                )
                patch.undo()
                async with connected(tmp_path / "guard.sock") as qmp:
                    assert await qmp.ask("query-name") == {"return": {}}
        assert await bystander.ask("query-name") == {"return": {}}
        assert other.connections == 1


async def test_a_link_that_ends_soon_again_and_again_is_tried_less_and_less_often() -> None:
    back_off = BackOff()
    delays = [back_off.next(None) for _ in range(12)]
    assert delays[:3] == [0.05, 0.1, 0.2]
    assert delays[-1] == absence.LONGEST_UNFIT
    assert not back_off.lasted(absence.STEADY / 2)
    assert back_off.next(Cause.NOBODY) == absence.LONGEST_DELAY
    assert back_off.lasted(absence.STEADY)
    assert back_off.next(Cause.CLOSED) == 0.05


def test_each_cause_is_logged_once_an_hour() -> None:
    notices = Notices()
    one, other = Absence(Cause.MISSING, "no"), Absence(Cause.FOREIGN, "odd")
    assert notices.admit(one, 0.0) == ""
    assert notices.admit(one, 1.0) is None
    assert notices.admit(other, 1.0) == ""
    assert notices.admit(Absence(Cause.FOREIGN, "otherwise odd"), 2.0) is None
    assert notices.admit(one, INTERVAL) == " (1 like it left out)"


async def test_whoever_dials_in_and_is_no_qemu_is_weather_of_that_vm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "LONGEST_UNFIT", 0.05)
    where = UnixAddress(str(tmp_path / "dials"))
    async with guarding(Inbound(where), tmp_path / "guard.sock", up=False) as guard:
        for said in (b"", GOOD.replace(b"8", b'"x"'), b"a" * (negotiation.MAX_GREETING + 1)):
            _, writer = await asyncio.open_unix_connection(where.path)
            with suppress(ConnectionError):
                writer.write(said)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        reader, writer = await asyncio.open_unix_connection(where.path)
        writer.write(GOOD)
        request = json.loads(await reader.readline())
        writer.write(b'{"return": {}, "id": %d}\r\n' % request["id"])
        await eventually(guard.vm.connected.is_set)
        assert not guard.vm.counts.faults
        writer.close()


async def test_who_dials_in_and_says_nothing_holds_nobody(tmp_path: Path) -> None:
    where = UnixAddress(str(tmp_path / "dials"))
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        guarding(Inbound(where), tmp_path / "other.sock", up=False),
    ):
        _, writer = await asyncio.open_unix_connection(where.path)
        async with connected(tmp_path / "guard.sock") as bystander:
            assert await bystander.ask("query-name") == {"return": {}}
        writer.close()


async def test_a_qemu_that_does_not_dial_in_again_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "DIALS_AGAIN", 0.05)
    where = UnixAddress(str(tmp_path / "dials"))
    async with guarding(Inbound(where), tmp_path / "guard.sock", up=False) as guard:
        reader, writer = await asyncio.open_unix_connection(where.path)
        writer.write(GOOD)
        request = json.loads(await reader.readline())
        writer.write(b'{"return": {}, "id": %d}\r\n' % request["id"])
        await eventually(guard.vm.connected.is_set)
        writer.close()
        await eventually(lambda: guard.vm.connections.presence is Presence.ENDED)
        assert guard.vm.snapshot().link.cause == Cause.DIALS.value


async def test_a_host_that_cannot_be_looked_up_is_weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with guarding(TcpAddress("qemu.example", 4444), tmp_path / "guard.sock", up=False) as guard:
        await eventually(lambda: "cannot look up 'qemu.example'" in guard.vm.snapshot().link.reason)
        assert guard.vm.snapshot().link.cause == Cause.UNREACHABLE.value
