"""The paths and what answers them. All is read-only: whatever is not GET or HEAD is answered 405."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from qmpguard.admin import view
from qmpguard.admin.door import KNOWN, add_headers, middleware
from qmpguard.admin.metrics import Meter
from qmpguard.admin.openapi import document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpguard.admin.door import Door
    from qmpguard.admin.feed import Feed, Vm
    from qmpguard.proxy.counts import Upkeep
    from qmpguard.record import Run

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


class Site:
    """The handlers of one process's admin interface."""

    def __init__(self, vms: Callable[[], Sequence[Vm]], run: Run, feed: Feed, upkeep: Callable[[], Upkeep]) -> None:
        self._vms = vms
        self._run = run
        self._feed = feed
        self._encoded: dict[str, tuple[float, bytes]] = {}  # by content type, of which there are few
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Meter(lambda: [one.snapshot() for one in vms()], upkeep))

    def application(self, door: Door) -> web.Application:
        """Return the application, with the door before every path."""
        app = web.Application(middlewares=[middleware(door)])
        app.on_response_prepare.append(add_headers)
        for path in _FILES:
            app.router.add_get(path, page)
        for path, answer in (
            ("/healthz", self.healthz),
            ("/readyz", self.readyz),
            ("/metrics", self.metrics),
            ("/openapi.json", self.openapi),
            ("/api/v1/vms", self.vms),
            ("/api/v1/vms/{name}", self.vm),
            ("/api/v1/decisions", self.decisions),
            ("/api/v1/rules", self.rules),
        ):
            app.router.add_get(path, answer)
        app.router.add_get("/api/v1/stream", self.stream, allow_head=False)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer: that alone says that the event loop turns."""
        return web.json_response({"status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether every VM can be used; 503 when one cannot."""
        body = view.readiness([one.snapshot() for one in self._vms()], by_name=request[KNOWN])
        return web.json_response(body, status=200 if body["ready"] else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Give the metrics in the form that the scraper asks for."""
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        now = time.monotonic()
        made, body = self._encoded.get(kind, (-METRICS_AGE, b""))
        if now - made >= METRICS_AGE:
            body = encode(self._registry)
            self._encoded[kind] = now, body
        return web.Response(body=body, headers={"Content-Type": kind})

    async def openapi(self, request: web.Request) -> web.Response:
        """Describe all of this."""
        return web.json_response(document())

    async def vms(self, request: web.Request) -> web.Response:
        """Tell of every VM."""
        return web.json_response({"vms": [view.vm(one.snapshot(), self._run) for one in self._vms()]})

    async def vm(self, request: web.Request) -> web.Response:
        """Tell of one VM."""
        one = self._find(request.match_info["name"])
        if one is None:
            raise web.HTTPNotFound(text="there is no VM of that name")
        return web.json_response(view.vm(one.snapshot(), self._run))

    async def decisions(self, request: web.Request) -> web.Response:
        """Tell of the latest decisions, oldest first."""
        _only(request, "since", "vm", "limit")
        limit = _limit(request.query.get("limit"))
        since = self._since(request.query.get("since")) or 0
        past = self._feed.past(since, self._filter(request))
        found = [entry for entry in past if view.kind_of(entry.what) == "decision"][-limit:]
        body = {"decisions": [view.entry(entry, self._run) for entry in found], "last": self._run.ref(self._run.last)}
        return web.json_response(body)

    async def rules(self, request: web.Request) -> web.Response:
        """Tell of the rules, and their modes for each VM."""
        return web.json_response(view.rules([one.snapshot() for one in self._vms()]))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Tell of everything as it happens, from where the client has left off."""
        _only(request, "since", "vm", "kinds")
        since = self._since(request.headers.get("Last-Event-ID") or request.query.get("since"))
        vm, kinds = self._filter(request), _kinds(request.query.get("kinds"))
        if len(self._feed) >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"there are {MAX_STREAMS} streams already")
        transport = request.transport
        assert transport is not None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        with (
            suppress(ConnectionError),
            self._feed.stream(since=since, vm=vm, kinds=kinds, drop=transport.abort) as (stream, first),
        ):
            await response.prepare(request)
            for message in first:
                await response.write(message)
            while (more := await _next(stream.queue)) is not None:
                await response.write(more)
        return response

    def _find(self, name: str) -> Vm | None:
        return next((one for one in self._vms() if one.name == name), None)

    def _filter(self, request: web.Request) -> str | None:
        name = request.query.get("vm")
        if name is not None and self._find(name) is None:
            raise web.HTTPNotFound(text="there is no VM of that name")
        return name

    def _since(self, place: str | None) -> int | None:
        """Return the number after which a client wants to know; of another life of this process: everything."""
        if place is None:
            return None
        match = _PLACE.fullmatch(place)
        if match is None:
            raise web.HTTPBadRequest(text="since: the id of an entry, or its number")
        return int(match[2]) if match[1] in (None, self._run.token) else 0


async def page(request: web.Request) -> web.Response:
    """Give the page, or one of its files."""
    name, kind = _FILES[request.path]
    body = resources.files("qmpguard.admin").joinpath("static", name).read_bytes()
    return web.Response(body=body, content_type=kind, charset="utf-8")


async def _next(queue: asyncio.Queue[bytes | None]) -> bytes | None:
    """Return the next message, or a comment that keeps the connection alive."""
    try:
        async with asyncio.timeout(KEEP_ALIVE):
            return await queue.get()
    except TimeoutError:
        return b": alive\n\n"


def _only(request: web.Request, *names: str) -> None:
    for name in request.query:
        if name not in names or len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"the parameters are {', '.join(names)}, each at most once")


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_DECISIONS
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= MAX_DECISIONS):
        raise web.HTTPBadRequest(text=f"limit: a number from 1 to {MAX_DECISIONS}")
    return int(text[:5])


def _kinds(text: str | None) -> frozenset[str]:
    kinds = frozenset(KINDS if text is None else text.split(","))
    if not kinds <= frozenset(KINDS):
        raise web.HTTPBadRequest(text=f"kinds: some of {','.join(KINDS)}")
    return kinds
