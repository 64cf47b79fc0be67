"""The paths and what answers them. All is read-only: whatever is not GET or HEAD is answered 405."""

from __future__ import annotations

import asyncio
import re
import time
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from qmpguard.admin import serialize
from qmpguard.admin.answer import JSON, answer, listing, send
from qmpguard.admin.auth import CONNECTION, KNOWN, add_headers, middleware
from qmpguard.admin.connections import Phase
from qmpguard.admin.exposition import encoder
from qmpguard.admin.history import latest
from qmpguard.admin.metrics import Meter
from qmpguard.admin.openapi import document
from qmpguard.admin.states import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from qmpguard.admin.auth import Auth
    from qmpguard.admin.connections import Connections
    from qmpguard.admin.faults import Faults
    from qmpguard.admin.sse import EventFeed
    from qmpguard.admin.states import VmState
    from qmpguard.policy.rules import Row
    from qmpguard.proxy.state.counters import Upkeep
    from qmpguard.record import Entry, Run

#: streams at once; each costs a queue and a socket
MAX_STREAMS = 256
#: seconds of silence after which a stream says that it is alive: proxies close what is silent for a minute
KEEP_ALIVE = 15.0
#: decisions in one answer, at most and by default: all that a journal keeps
MAX_DECISIONS = 1000

#: seconds that the metrics' text serves other scrapers too: a storm of scrapes must not take the VMs' time
METRICS_AGE = 1.0

KINDS = ("decision", "drift", "link", "event", "override")
_PLACE = re.compile(r"(?:([0-9a-f]{1,16})-)?(\d{1,15})", re.ASCII)
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
        self._pace = feed.pace
        self._faults = faults
        self._scraping = asyncio.Lock()
        self._encoded: dict[str, tuple[float, list[bytes]]] = {}  # by content type, of which there are few
        self._meter = Meter(lambda: [one.snapshot() for one in vms()], upkeep, lambda: faults.drops)
        folder = resources.files("qmpguard.admin").joinpath("static")
        self._files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def application(self, door: Auth, connections: Connections) -> web.Application:
        """Return the application, with the door before every path."""
        app = web.Application(middlewares=[middleware(door, connections, self._faults)])
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
        """Answer: that alone says that the event loop turns."""
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether every VM can be used; 503 when one cannot."""
        vms: list[serialize.Object] = []

        def look(vm: VmState) -> bytes:
            vms.append(serialize.vm_readiness(vm.snapshot()))
            return b""

        await self._pace.whole(map(look, tuple(self._vms())))
        body = serialize.readiness(vms, by_name=request[KNOWN])
        return web.json_response(body, status=200 if body["ready"] else 503)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Give the metrics in the form that the scraper asks for."""
        encode, kind = encoder(request.headers.get("Accept", ""))
        async with self._scraping:  # one that waits takes what the one before it has made
            made, pieces = self._encoded.get(kind, (-METRICS_AGE, []))
            if time.monotonic() - made >= METRICS_AGE:
                pieces = await self._pace.whole(self._meter.encoded(encode, self._vms()))
                self._encoded[kind] = time.monotonic(), pieces
        return await send(request, pieces, kind)

    async def openapi(self, request: web.Request) -> web.Response:
        """Describe all of this."""
        return web.Response(body=_document(), headers={"Content-Type": JSON})

    async def page(self, request: web.Request) -> web.Response:
        """Give the page, or one of its files."""
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def vms(self, request: web.Request) -> web.StreamResponse:
        """Tell of every VM."""
        states = (self._feed.states.of(one) for one in tuple(self._vms()))
        return await answer(request, self._pace, listing(b'{"vms":[', states, b"]}"))

    async def vm(self, request: web.Request) -> web.Response:
        """Tell of one VM."""
        one = self._find(request.match_info["name"])
        if one is None:
            raise web.HTTPNotFound(text="there is no VM of that name")
        return web.Response(body=self._feed.states.of(one), headers={"Content-Type": JSON})

    async def decisions(self, request: web.Request) -> web.StreamResponse:
        """Tell of the latest decisions, oldest first."""
        _only(request, "since", "before", "vm", "limit")
        limit = _number("limit", request.query.get("limit"), MAX_DECISIONS)
        since = self._since(request.query.get("since")) or 0
        before = self._place("before", request.query.get("before"))
        return await answer(request, self._pace, self._decisions(since, before, self._filter(request), limit))

    def _decisions(self, since: int, before: int | None, vm: str | None, limit: int) -> Iterator[bytes]:
        last = self._run.last
        found: list[Entry] = []
        until = last if before is None else before - 1
        yield from self._find_latest(found, ("decision",), vm, since, until, limit)
        entries = (encode(serialize.entry(entry, self._run)) for entry in reversed(found))
        yield from listing(b'{"decisions":[', entries, b'],"last":%b}' % encode(self._run.ref(last)))

    def _find_latest(
        self, found: list[Entry], kinds: Collection[str], vm: str | None, since: int, until: int, limit: int
    ) -> Iterator[bytes]:
        """Find entries, newest first, as steps that make nothing."""
        journals = [one.journal for one in self._vms() if vm in (None, one.name)]
        for entry in latest(journals, kinds, since, until):
            if entry is not None:
                found.append(entry)
            if len(found) == limit:
                return
            yield b""

    async def rules(self, request: web.Request) -> web.StreamResponse:
        """Tell of the rules, and their modes for each VM."""
        return await answer(request, self._pace, self._rules())

    def _rules(self) -> Iterator[bytes]:
        modes = {}
        added: dict[Row, None] = {}
        for one in tuple(self._vms()):
            shot = one.snapshot()
            modes[one.name] = serialize.modes(shot)
            added |= dict.fromkeys(shot.judging.added)
            yield b""
        yield from listing(b'{"rules":[', (encode(row) for row in serialize.rules(modes, added)), b"]}")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Tell of everything as it happens, from where the client has left off."""
        _only(request, "since", "vm", "kinds", "latest")
        since = self._since(request.headers.get("Last-Event-ID") or request.query.get("since"))
        vm, kinds = self._filter(request), _kinds(request.query.get("kinds"))
        if (most := request.query.get("latest")) is not None:
            found: list[Entry] = []
            count, until = _number("latest", most, MAX_DECISIONS), self._run.last
            await self._pace.whole(self._find_latest(found, kinds, vm, since or 0, until, count))
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

    def _since(self, place: str | None) -> int | None:
        """Return the number after which a client wants to know; of another life of this process: everything."""
        return self._place("since", place)

    def _place(self, name: str, place: str | None) -> int | None:
        if place is None:
            return None
        match = _PLACE.fullmatch(place)
        if match is None:
            raise web.HTTPBadRequest(text=f"{name}: the id of an entry, or its number")
        return int(match[2]) if match[1] in (None, self._run.token) else 0


@cache
def _document() -> bytes:
    return encode(document())


def _only(request: web.Request, *names: str) -> None:
    for name in request.query:
        if name not in names or len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"the parameters are {', '.join(names)}, each at most once")


def _number(name: str, text: str | None, most: int) -> int:
    if text is None:
        return most
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= most):
        raise web.HTTPBadRequest(text=f"{name}: a number from 1 to {most}")
    return int(text[:5])


def _kinds(text: str | None) -> frozenset[str]:
    kinds = frozenset(KINDS if text is None else text.split(","))
    if not kinds <= frozenset(KINDS):
        raise web.HTTPBadRequest(text=f"kinds: some of {','.join(KINDS)}")
    return kinds
