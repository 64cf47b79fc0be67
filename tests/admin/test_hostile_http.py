"""Whatever somebody sends to the admin interface: a client's error or an answer, a bounded log, and it goes on."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING

from qmpguard.admin import connections, routes, serialize
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, guarding
from tests.support.visiting import TOKEN, visiting, visiting_by_tcp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

PATHS = (
    "/",
    "/page.js",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/api/v1/vms",
    "/api/v1/vms/test",
    "/api/v1/decisions",
    "/api/v1/rules",
    "/nothing",
    "/api/v1/vms/%",
    "/api/v1/vms/%ff%fe",
    "/api/v1/vms/%00",
    "/api/v1/vms/a%2Fb",
    "/api/v1/vms/\xff",
    "//",
    "/../../etc/passwd",
    "*",
    "http://[/",
    "http://evil/healthz",
    "/" + "a" * 5000,
    "/" + "a" * 9000,
    "/%u1234",
    "?",
    "#",
    "/healthz?" + "&".join("a=b" for _ in range(2000)),
)
QUERIES = (
    "?since=",
    "?since=1&since=2",
    "?since=%ff",
    "?since=\xff",
    "?since=99999999999999999",
    "?since=%D9%A1",
    "?since=-1",
    "?limit=1e3",
    "?limit=%EF%BC%91",
    "?limit=" + "9" * 5000,
    "?vm=",
    "?vm=%00",
    "?vm=\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "?kinds=,",
    "?kinds=decision,decision",
    "?=&=",
    "?&&&",
    "?%",
    "?since=ffffffffffffffffffff-1",
    "?a[]=1",
    "?vm=test#x",
)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "PRI", "get", "G\xcbT", "", "A" * 300)
HOSTS = (
    "localhost",
    "[",
    "[::1",
    "[::1]:99999",
    "",
    "a" * 3000,
    "\xff",
    "localhost:",
    "127.1",
    "evil@localhost",
    "\x7f",
)
HEADERS = (
    "",
    "Origin: http://[",
    "Origin: http://[::1",
    "Origin: \xff",
    "Origin: http://\u2100.example".encode().decode("latin-1"),
    "Origin: ",
    "Origin: http://a:b:c",
    "Origin: http://localhost:port",
    "Authorization: ",
    "Authorization: Bearer",
    "Authorization: Bearer \xff\xfe",
    f"Authorization: Bearer {TOKEN}x",
    "Accept: application/openmetrics-text; version=",
    "Accept: application/openmetrics-text; version=junk",
    "Accept: application/openmetrics-text; version=9.9.\xff",
    "Accept: application/openmetrics-text; version=1.0.0; escaping=\xff",
    "Accept: text/plain; version=1e9",
    "Accept: text/plain; version=" + "9." * 2000,
    "Accept: " + "a," * 3000,
    "Last-Event-ID: \xff",
    "Last-Event-ID: x",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Content-Length: 5\r\nContent-Length: 6",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: \xff",
    "Content-Encoding: deflate\r\nContent-Length: 3",
    "Expect: 100-continue",
    "Expect: the-impossible",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Upgrade: h2c\r\nConnection: upgrade",
    "Connection: \xff",
    "Range: bytes=0-1",
    "Cookie: " + "a=b; " * 1000,
    "X: " + "a" * 9000,
    "No colon here",
    ": no name",
    "A\x00B: c",
    "Folded: a\r\n b",
    "\r\n".join(f"X-{n}: y" for n in range(200)),
    "Content-Type: multipart/form-data; boundary=\xff",
    "Host: other",
    "Content-Type: \xff; charset=\xff",
    "If-Modified-Since: never",
    "Sec-WebSocket-Key: x",
    'Forwarded: for="["',
    "X-Forwarded-For: [",
)
RAW = (
    b"junk junk\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\x00" * 100,
    b"\r\n" * 50,
    b"GET",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\nHost: localhost\n\n",
    b"GET /healthz\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xff\xfe" * 500,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabc",
    b'{"execute": "qmp_capabilities"}\r\n',
    b"A" * 100_000,
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100,
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\njunk\r\n\r\n",
)
#: hostile requests that are tried, of those that the lists above make
COUNT = 900
AT_ONCE = 60
#: lines of log that they may make all together: none names one request
MAX_LINES = 5
OKAY = re.compile(rb"^HTTP/1\.[01] (2\d\d|4\d\d|503|100) ", re.MULTILINE)
STATUS = re.compile(rb"^HTTP/1\.[01] .*$", re.MULTILINE)


def hostile() -> Iterator[bytes]:
    """Every odd thing alone, and then at random together."""
    yield from RAW
    for path, query in product(PATHS[:12], ("", *QUERIES)):
        yield request("GET", path + query, "localhost", "")
    for header, path in product(HEADERS, ("/metrics", "/api/v1/decisions", "/healthz")):
        yield request("GET", path, "localhost", header)
    passes = random.Random(13)  # noqa: S311 -- repeatable
    while True:
        yield request(
            passes.choice(METHODS), passes.choice(PATHS) + passes.choice(("", *QUERIES)), passes.choice(HOSTS),
            "\r\n".join(passes.sample(HEADERS, 3)), passes.choice((b"", b"body", b"\xff" * 1000)),
        )  # fmt: skip


def request(method: str, path: str, host: str, headers: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}".rstrip("\r\n")
    return head.encode("latin-1") + b"\r\n\r\n" + body


async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    """All that is answered until the guard ends the connection."""
    reader, writer = connection
    answer = b""
    with suppress(ConnectionError):
        writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            while piece := await reader.read(1 << 16):
                answer += piece
    writer.close()
    return answer


def bad(answers: bytes) -> list[bytes]:
    return [status for status in STATUS.findall(answers) if not OKAY.match(status + b" ")]


async def test_no_input_is_a_fault_of_ours_nor_fills_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 0.2)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
    ):
        caplog.clear()
        requests, answered = hostile(), 0
        for _ in range(COUNT // AT_ONCE):
            data = [next(requests) for _ in range(AT_ONCE)]
            opened = [await asyncio.open_unix_connection(tmp_path / "admin.sock") for _ in data]
            answers = await asyncio.gather(*map(ask, opened, data))
            for sent, answer in zip(data, answers, strict=True):
                assert not bad(answer), (sent[:300], answer[:300])
                answered += bool(answer)
        assert answered > COUNT / 2  # on a busy machine some reach the timeout, which is short here
        assert (await visitor.get("/healthz"))[0] == 200
        text = (await visitor.get("/metrics"))[1]
        assert 'qmpguard_admin_drops_total{reason="fault"} 0.0' in text
        assert 'qmpguard_admin_drops_total{reason="malformed"} 0.0' not in text
    assert not [record for record in caplog.records if record.exc_info], caplog.text
    assert len(caplog.records) <= MAX_LINES, caplog.text


async def test_without_a_token_no_header_is_a_fault_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT", 0.2)
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT", 0.2)
    async with guarding(tmp_path / "q", up=False) as guard, visiting_by_tcp(tmp_path, guard) as visitor:
        caplog.clear()
        port = int(visitor.base.rpartition(":")[2])
        paths = ("/readyz", "/api/v1/vms", "/api/v1/stream")
        data = [request("GET", path, "localhost", header) for header, path in product(HEADERS, paths)]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in data]
        answers = await asyncio.gather(*map(ask, opened, data))
        for sent, answer in zip(data, answers, strict=True):
            assert not bad(answer), (sent[:300], answer[:300])
    assert len(caplog.records) <= MAX_LINES, caplog.text


async def test_what_a_scraper_makes_up_is_not_kept_for_it(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        kinds = set()
        for n in range(50):
            accept = f"application/openmetrics-text; version=1.0.{n}; escaping=dots"
            async with visitor.http.get(visitor.base + "/metrics", headers={"Accept": accept}) as response:
                assert response.status == 200
                kinds.add(response.headers["Content-Type"])
        assert len(kinds) <= 2


async def test_a_fault_of_ours_is_logged_once_with_its_trace_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("odd")

    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        monkeypatch.setattr(routes, "_read_number", fail)
        for _ in range(5):
            status, body = await visitor.get("/api/v1/decisions")
            assert (status, set(body)) == (500, {"error"})
        assert 'qmpguard_admin_drops_total{reason="fault"} 5.0' in (await visitor.get("/metrics"))[1]
        assert (await visitor.get("/api/v1/vms"))[0] == 200
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1


async def test_a_fault_in_the_midst_of_an_answer_never_makes_it_look_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        monkeypatch.setattr(routes, "encode", lambda _: b"x" * 100_000)

        def rows(_: object, added: object = ()) -> Iterator[int]:
            yield from range(3)
            raise RuntimeError("odd")

        monkeypatch.setattr(serialize, "rules", rows)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
        writer.write(b"GET /api/v1/rules HTTP/1.1\r\nHost: localhost\r\n\r\n")
        data = b""
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                data += piece
        writer.close()
        assert data.startswith(b"HTTP/1.1 200")
        assert not data.endswith(b"0\r\n\r\n")
        assert (await visitor.get("/healthz"))[0] == 200
