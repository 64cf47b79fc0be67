"""Nobody holds a place of the admin interface for longer than it needs, and a probe always finds one."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from qmpguard.admin import connections, routes, server
from qmpguard.admin.connections import MAX_CONNECTIONS, Connection, Connections, Phase
from qmpguard.admin.faults import Drop, Faults
from qmpguard.admin.routes import MAX_STREAMS
from qmpguard.admin.sse import EventFeed
from qmpguard.record import Event
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, eventually, guarding
from tests.support.visiting import TOKEN, AdminClient, visiting, visiting_by_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from qmpguard.daemon.guard import Guard

FAST = 0.1
HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
HEALTHZ = b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n"


class Place:
    """An admin interface to connect to with bare sockets."""

    def __init__(self, visitor: AdminClient, guard: Guard, unix: Path | None) -> None:
        self.visitor = visitor
        self.guard = guard
        self._unix = unix
        self._opened: list[asyncio.StreamWriter] = []

    async def open(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._unix is not None:
            opened = await asyncio.open_unix_connection(self._unix, limit=1024)
        else:
            opened = await asyncio.open_connection("127.0.0.1", int(self.visitor.base.rpartition(":")[2]), limit=1024)
        opened[1].write(data)
        self._opened.append(opened[1])
        return opened

    async def close(self) -> None:
        for writer in self._opened:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def drops(self, drop: Drop) -> int:
        text = (await self.visitor.get("/metrics", Authorization=f"Bearer {TOKEN}"))[1]
        (line,) = (
            line for line in text.splitlines() if line.startswith(f'qmpguard_admin_drops_total{{reason="{drop.value}"')
        )
        return int(float(line.split()[1]))


@pytest.fixture(params=["unix", "tcp"])
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Place]:
    async with _place(tmp_path, unix=request.param == "unix") as opened:
        yield opened


@asynccontextmanager
async def _place(folder: Path, *, unix: bool) -> AsyncGenerator[Place]:
    async with FakeQemu(folder / "q") as qemu, guarding(qemu.path) as guard:
        if unix:
            async with visiting(folder, guard) as visitor:
                place = Place(visitor, guard, folder / "admin.sock")
                yield place
                await place.close()
        else:
            async with visiting_by_tcp(folder, guard) as visitor:
                place = Place(visitor, guard, None)
                yield place
                await place.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the guard ends a connection."""
    data = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT):
            while piece := await reader.read(1 << 16):
                data += piece
    return data


@pytest.mark.parametrize(
    "begun",
    [b"", b"\r\n", b"GET /hea", b"GET /healthz HTTP/1.1\r\n" + HEAD, HEALTHZ, HEALTHZ + b"GET /"],
    ids=["nothing", "a blank line", "half a line", "half a head", "idle after an answer", "a second one"],
)
async def test_one_who_begins_and_does_not_go_on_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", FAST)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", FAST)
    reader, _ = await place.open(begun)
    assert (await ended(reader)).count(b"200 OK") == begun.count(HEALTHZ)


@pytest.mark.parametrize("before", [b"", HEALTHZ], ids=["first", "second"])
async def test_no_byte_prolongs_the_time_of_a_request(
    place: Place, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", FAST)
    reader, writer = await place.open(before + b"GET /")
    end = asyncio.get_running_loop().create_task(ended(reader))
    with suppress(ConnectionError):
        while not end.done():
            writer.write(b"A")
            await asyncio.sleep(FAST / 20)
    await end
    assert await place.drops(Drop.TOO_SLOW) == 1


async def test_a_body_that_never_comes_holds_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", FAST)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", FAST)
    for length in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
        reader, _ = await place.open(b"GET /healthz HTTP/1.1\r\n" + HEAD + length + b"\r\n\r\n")
        assert b"200 OK" in await ended(reader)


@pytest.mark.parametrize("path", [b"/api/v1/rules", b"/openapi.json"], ids=["in pieces", "whole"])
async def test_one_who_does_not_read_an_answer_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", FAST)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", TIMEOUT * 2)
    _make_large(monkeypatch)
    reader, _ = await place.open(b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"\r\n")
    await reader.readline()
    await eventually(lambda: not _table(place))
    assert await place.drops(Drop.TOO_SLOW) == 1


async def test_one_who_does_not_read_a_stream_is_closed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_TIMEOUT", FAST)
    vm = place.guard.vm
    reader, _ = await place.open(b"GET /api/v1/stream HTTP/1.1\r\n" + HEAD + b"\r\n")
    await reader.readline()
    await eventually(lambda: bool(vm.journal._listeners))
    for n in range(100_000):
        vm.recorder.happened(Event("RTC_CHANGE", json.dumps("x" * 3000)))
        if n % 100 == 0:
            await asyncio.sleep(0.001)
        if not vm.journal._listeners:
            break
    assert not vm.journal._listeners


def _make_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "encode", lambda _: b"x" * 1_000_000)
    monkeypatch.setattr(routes, "_document", lambda: b"x" * 10_000_000)


def _table(place: Place) -> list[Connection]:
    assert place.visitor.admin is not None
    return list(place.visitor.admin._connections._all.values())


class Nothing:
    """A protocol that does nothing."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


async def test_a_connection_that_closes_when_all_is_written_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Connection(Nothing(), Connections(Faults()))  # type: ignore[arg-type]
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
    transport.write(bytes(1 << 20))
    transport.close()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    assert len(await ended(reader)) == 1 << 20
    writer.close()
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


# places


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    return 8


async def test_probes_are_answered_while_all_places_are_taken_by_who_says_nothing(place: Place, few: int) -> None:
    [await place.open() for _ in range(few * 3)]
    for path in ("/healthz", "/readyz", "/metrics"):
        reader, _ = await place.open(b"GET " + path.encode() + b" HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n")
        assert b"200 OK" in await ended(reader)


async def test_the_one_that_has_idled_longest_gives_way_and_no_other(place: Place, few: int) -> None:
    opened = [await place.open(HEALTHZ) for _ in range(few)]
    for reader, _ in opened:
        assert b"200 OK" in await reader.readline()
    newest = await place.open(HEALTHZ)
    assert b"200 OK" in await newest[0].readline()
    await ended(opened[0][0])
    for reader, writer in opened[1:]:
        await reader.readuntil(b'{"status": "ok"}')
        writer.write(HEALTHZ)
        assert b"200 OK" in await reader.readline()


async def test_streams_keep_their_places_and_leave_some_for_probes(
    place: Place, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_STREAMS", few // 2)
    streams = [await place.open(b"GET /api/v1/stream HTTP/1.1\r\n" + HEAD + b"\r\n") for _ in range(few // 2)]
    for reader, _ in streams:
        assert b"200 OK" in await reader.readline()
    [await place.open() for _ in range(few * 2)]
    reader, _ = await place.open(HEALTHZ)
    assert b"200 OK" in await reader.readline()
    assert len(place.guard.vm.journal._listeners) == 1
    assert not any(reader.at_eof() for reader, _ in streams)


def test_half_of_all_places_are_for_no_stream() -> None:
    assert MAX_STREAMS * 2 <= MAX_CONNECTIONS


async def test_who_does_not_read_its_answer_gives_way_to_a_probe(
    place: Place, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_large(monkeypatch)
    [await place.open(b"GET /api/v1/rules HTTP/1.1\r\n" + HEAD + b"\r\n") for _ in range(few)]
    await eventually(lambda: len([one for one in _table(place) if one.stalled]) == few)
    reader, _ = await place.open(HEALTHZ)
    assert b"200 OK" in await reader.readline()


async def test_where_every_place_has_a_stream_a_new_one_is_closed_and_counted(place: Place, few: int) -> None:
    streams = [await place.open(b"GET /api/v1/stream HTTP/1.1\r\n" + HEAD + b"\r\n") for _ in range(few)]
    for reader, _ in streams:
        assert b"200 OK" in await reader.readline()
    reader, _ = await place.open(HEALTHZ)
    assert await ended(reader) == b""
    streams.pop()[1].close()
    await eventually(lambda: len(_table(place)) < few)
    assert await place.drops(Drop.TOO_MANY) == 1


async def test_where_descriptors_are_scarce_there_are_places_for_a_few_probes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "is_reserved", lambda _: True)
    for _ in range(connections.MAX_WHILE_SCARCE * 3):
        await place.open()
    reader, _ = await place.open(HEALTHZ)
    assert b"200 OK" in await reader.readline()
    assert len(_table(place)) <= connections.MAX_WHILE_SCARCE


@pytest.mark.parametrize("phase", Phase)
async def test_every_phase_but_a_stream_has_a_limit(phase: Phase) -> None:
    table = Connections(Faults())
    connection = Connection(object(), table)  # type: ignore[arg-type]
    connection.enter(phase)
    assert (connection._timer is None) == (phase is Phase.STREAMING)
    connection.close()
    assert connection._timer is None


# faults


async def test_a_feed_that_fails_begins_anew_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "RESTART_DELAYS", (0.01,))
    begun: list[bool] = []

    async def fail(_: object) -> None:
        begun.append(True)
        raise RuntimeError("odd")

    monkeypatch.setattr(EventFeed, "run", fail)
    async with _place(tmp_path, unix=True) as place:
        await eventually(lambda: len(begun) > 3)
        assert (await place.visitor.get("/healthz"))[0] == 200
        assert await place.drops(Drop.FAULT) >= 3
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_socket_whose_file_was_removed_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FILE_CHECK_INTERVAL", 0.02)
    async with _place(tmp_path, unix=True) as place:
        path = tmp_path / "admin.sock"
        async with place.visitor.stream() as stream:
            await stream.next("vm")
            for _ in range(2):
                path.unlink()
                await eventually(path.exists)
            reader, _ = await place.open(HEALTHZ)
            assert b"200 OK" in await reader.readline()
            assert not stream.response.content.at_eof()
    assert not path.exists()
