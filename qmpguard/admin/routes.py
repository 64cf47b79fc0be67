"""The paths and their handlers. All are read-only: every method except GET and HEAD is answered with 405."""

from __future__ import annotations

import asyncio
import re
import time
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from qmpguard.admin import serialize
from qmpguard.admin.auth import CONNECTION, IS_KNOWN, add_headers, middleware
from qmpguard.admin.connections import Phase
from qmpguard.admin.exposition import encoder
from qmpguard.admin.history import latest_entries
from qmpguard.admin.metrics import MetricsCollector
from qmpguard.admin.openapi import document
from qmpguard.admin.responses import JSON, json_list, send_pieces, stream_json
from qmpguard.admin.state_cache import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from qmpguard.admin.auth import Auth
    from qmpguard.admin.connections import Connections
    from qmpguard.admin.faults import Faults
    from qmpguard.admin.sse import EventFeed
    from qmpguard.admin.state_cache import VmState
    from qmpguard.policy.rules import Row
    from qmpguard.proxy.state.counters import Upkeep
    from qmpguard.record import Entry, Run

#: streams at once; each costs a queue and a socket
MAX_STREAMS = 256
#: seconds between two keep-alive comments of a stream: reverse proxies close connections that are silent for a minute
KEEP_ALIVE = 15.0
#: decisions in one response, at most and by default: as many as a journal keeps
MAX_DECISIONS = 1000

#: seconds that an encoded scrape is cached: a storm of scrapes must not take the event loop's time
METRICS_AGE = 1.0

KINDS = ("decision", "drift", "link", "event", "override")
_REFERENCE = re.compile(r"(?:([0-9a-f]{1,16})-)?(\d{1,15})", re.ASCII)
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Routes:
    """The handlers of one process's admin interface."""

    def __init__(
        self,
        vms: Callable[[], Sequence[VmState]],
        run: Run,
        feed: EventFeed,
        upkeep: Callable[[], Upkeep],
        faults: Faults,
    ) -> None:
        self._vms = vms
        self._run = run
        self._feed = feed
        self._slices = feed.slices
        self._faults = faults
        self._scraping = asyncio.Lock()
        self._encoded: dict[str, tuple[float, list[bytes]]] = {}  # by content type
        self._collector = MetricsCollector(lambda: [one.snapshot() for one in vms()], upkeep, lambda: faults.drops)
        folder = resources.files("qmpguard.admin").joinpath("static")
        self._files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def application(self, auth: Auth, connections: Connections) -> web.Application:
        """Return the application, with authentication for every path."""
        app = web.Application(middlewares=[middleware(auth, connections, self._faults)])
        app.on_response_prepare.append(add_headers)
        for path in _FILES:
            app.router.add_get(path, self.page)
        for path, handler in (
            ("/healthz", self.healthz),
            ("/readyz", self.readyz),
            ("/metrics", self.metrics),
            ("/openapi.json", self.openapi),
            ("/api/v1/vms", self.vms),
            ("/api/v1/vms/{name}", self.vm),
            ("/api/v1/decisions", self.decisions),
            ("/api/v1/rules", self.rules),
        ):
            app.router.add_get(path, handler)
        app.router.add_get("/api/v1/stream", self.stream, allow_head=False)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer that the process is alive: the event loop runs."""
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer with the readiness of every VM; 503 when one is not ready."""
        vms: list[serialize.Object] = []

        def append_readiness(vm: VmState) -> bytes:
            vms.append(serialize.vm_readiness(vm.snapshot()))
            return b""

        await self._slices.whole(map(append_readiness, tuple(self._vms())))
        body = serialize.readiness(vms, by_name=request[IS_KNOWN])
        return web.json_response(body, status=200 if body["ready"] else 503)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer with the metrics in the format of the Accept header."""
        encode, kind = encoder(request.headers.get("Accept", ""))
        async with self._scraping:  # a concurrent scrape waits for the cache
            made, pieces = self._encoded.get(kind, (-METRICS_AGE, []))
            if time.monotonic() - made >= METRICS_AGE:
                pieces = await self._slices.whole(self._collector.encode_in_steps(encode, self._vms()))
                self._encoded[kind] = time.monotonic(), pieces
        return await send_pieces(request, pieces, kind)

    async def openapi(self, request: web.Request) -> web.Response:
        """Answer with the OpenAPI document."""
        return web.Response(body=_document(), headers={"Content-Type": JSON})

    async def page(self, request: web.Request) -> web.Response:
        """Answer with the page, or one of its files."""
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def vms(self, request: web.Request) -> web.StreamResponse:
        """Answer with the state of every VM."""
        states = (self._feed.states.of(one) for one in tuple(self._vms()))
        return await stream_json(request, self._slices, json_list(b'{"vms":[', states, b"]}"))

    async def vm(self, request: web.Request) -> web.Response:
        """Answer with the state of one VM."""
        one = self._find(request.match_info["name"])
        if one is None:
            raise web.HTTPNotFound(text="there is no VM of that name")
        return web.Response(body=self._feed.states.of(one), headers={"Content-Type": JSON})

    async def decisions(self, request: web.Request) -> web.StreamResponse:
        """Answer with the latest decisions, oldest first."""
        _check_parameters(request, "since", "before", "vm", "limit")
        limit = _read_number("limit", request.query.get("limit"), MAX_DECISIONS)
        since = self._since(request.query.get("since")) or 0
        before = self._number_of("before", request.query.get("before"))
        return await stream_json(request, self._slices, self._decisions(since, before, self._filter(request), limit))

    def _decisions(self, since: int, before: int | None, vm: str | None, limit: int) -> Iterator[bytes]:
        last = self._run.last
        found: list[Entry] = []
        until = last if before is None else before - 1
        yield from self._latest_entries(found, ("decision",), vm, since, until, limit)
        entries = (encode(serialize.entry(entry, self._run)) for entry in reversed(found))
        yield from json_list(b'{"decisions":[', entries, b'],"last":%b}' % encode(self._run.ref(last)))

    def _latest_entries(
        self, found: list[Entry], kinds: Collection[str], vm: str | None, since: int, until: int, limit: int
    ) -> Iterator[bytes]:
        """Append entries to ``found``, newest first, in steps without output."""
        journals = [one.journal for one in self._vms() if vm in (None, one.name)]
        for entry in latest_entries(journals, kinds, since, until):
            if entry is not None:
                found.append(entry)
            if len(found) == limit:
                return
            yield b""

    async def rules(self, request: web.Request) -> web.StreamResponse:
        """Answer with the rules, and their modes for each VM."""
        return await stream_json(request, self._slices, self._rules())

    def _rules(self) -> Iterator[bytes]:
        modes = {}
        added: dict[Row, None] = {}
        for one in tuple(self._vms()):
            snapshot = one.snapshot()
            modes[one.name] = serialize.modes(snapshot)
            added |= dict.fromkeys(snapshot.judging.added)
            yield b""
        yield from json_list(b'{"rules":[', (encode(row) for row in serialize.rules(modes, added)), b"]}")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answer with a stream of entries and states, from the client's last entry on."""
        _check_parameters(request, "since", "vm", "kinds", "latest")
        since = self._since(request.headers.get("Last-Event-ID") or request.query.get("since"))
        vm, kinds = self._filter(request), _read_kinds(request.query.get("kinds"))
        if (latest_text := request.query.get("latest")) is not None:
            found: list[Entry] = []
            count, until = _read_number("latest", latest_text, MAX_DECISIONS), self._run.last
            await self._slices.whole(self._latest_entries(found, kinds, vm, since or 0, until, count))
            since = found[-1].number - 1 if found else until
        if len(self._feed) >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"there are {MAX_STREAMS} streams already")
        connection = request[CONNECTION]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        with self._feed.stream(since=since, vm=vm, kinds=kinds, drop=connection.close) as stream:
            await response.prepare(request)
            connection.enter(Phase.STREAMING)
            while (data := await self._feed.next(stream, KEEP_ALIVE)) is not None:
                await response.write(data)
        return response

    def _find(self, name: str) -> VmState | None:
        return next((one for one in self._vms() if one.name == name), None)

    def _filter(self, request: web.Request) -> str | None:
        name = request.query.get("vm")
        if name is not None and self._find(name) is None:
            raise web.HTTPNotFound(text="there is no VM of that name")
        return name

    def _since(self, reference: str | None) -> int | None:
        """Return the number of the client's last entry; 0 for a reference of another process: all entries follow."""
        return self._number_of("since", reference)

    def _number_of(self, name: str, reference: str | None) -> int | None:
        if reference is None:
            return None
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise web.HTTPBadRequest(text=f"{name}: the id of an entry, or its number")
        return int(match[2]) if match[1] in (None, self._run.token) else 0


@cache
def _document() -> bytes:
    return encode(document())


def _check_parameters(request: web.Request, *names: str) -> None:
    for name in request.query:
        if name not in names or len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"the parameters are {', '.join(names)}, each at most once")


def _read_number(name: str, text: str | None, latest_text: int) -> int:
    if text is None:
        return latest_text
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= latest_text):
        raise web.HTTPBadRequest(text=f"{name}: a number from 1 to {latest_text}")
    return int(text[:5])


def _read_kinds(text: str | None) -> frozenset[str]:
    kinds = frozenset(KINDS if text is None else text.split(","))
    if not kinds <= frozenset(KINDS):
        raise web.HTTPBadRequest(text=f"kinds: some of {','.join(KINDS)}")
    return kinds
