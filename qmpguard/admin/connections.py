"""The connections of the admin interface: how long each may take, and which one closes when all places are taken.

A connection is always in one phase, and each phase but a stream has a limit of time, which no byte prolongs: one that
sends or reads a byte a second is closed as one that is silent. What aiohttp does with the bytes is its own business.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.admin.faults import Drop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web
    from aiohttp.web_protocol import RequestHandler

    from qmpguard.admin.faults import Faults

#: connections at once, streams among them
MAX_CONNECTIONS = 512
#: connections at once while the process has almost no descriptors left: for probes and a scraper
FEW = 8
#: seconds for a client's first request, and for each further one from its first byte on: it is a few hundred bytes
REQUEST_TIMEOUT = 10.0
#: seconds without a request: longer than scrapers and reverse proxies usually leave between two (a minute)
IDLE_TIMEOUT = 75.0
#: seconds until an answer is made and read: the largest, of 1,000 VMs, is some MiB
ANSWER_TIMEOUT = 60.0
#: seconds for which the client of a stream may leave unread what has been sent
READ_TIMEOUT = 60.0
#: seconds for the rest of a request that is answered already: no body is of any use here
BODY_TIMEOUT = 5.0


class Phase(Enum):
    """What a connection is doing."""

    NEW = "new"
    RECEIVING = "receiving"
    ANSWERING = "answering"
    IDLE = "idle"
    STREAMING = "streaming"


#: the phases that wait for the client's request: they give their places up when all are taken
WAITING = frozenset({Phase.NEW, Phase.RECEIVING, Phase.IDLE})


class Connection(asyncio.Protocol):
    """One connection: passes everything on to aiohttp's protocol, and knows its phase and its limit of time."""

    def __init__(self, http: RequestHandler, table: Connections) -> None:
        self.http = http
        self.phase = Phase.NEW
        self.since = 0.0
        self.stalled = False  # what was sent is not read
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.enter(Phase.NEW)

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its limit of time."""
        self.phase, self.since = phase, self._loop.time()
        match phase:
            case Phase.NEW | Phase.RECEIVING:
                self._limit(REQUEST_TIMEOUT, Drop.TOO_SLOW)
            case Phase.ANSWERING:
                self._limit(ANSWER_TIMEOUT, Drop.TOO_SLOW)
            case Phase.IDLE:
                self._limit(IDLE_TIMEOUT, Drop.IDLE)
            case Phase.STREAMING:
                self._no_limit()

    def close(self, drop: Drop | None = None) -> None:
        """End it at once, counted by the reason; what was not sent yet is lost."""
        if self._closed:
            return
        self._closed = True
        self._no_limit()
        self._table.closed(self, drop)
        if self._transport is not None:
            self._transport.abort()

    def _limit(self, seconds: float, drop: Drop) -> None:
        self._no_limit()
        if not self._closed:
            self._timer = self._loop.call_later(seconds, self.close, drop)

    def _no_limit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless another one was given the place meanwhile."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._closed:
            transport.abort()
        self.http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on; the first bytes after a pause begin a request."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.RECEIVING)
        self.http.data_received(data)

    def eof_received(self) -> None:
        """Pass it on."""
        self.http.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on; the place is free."""
        self._transport = None  # asyncio forgets that it is closed already, and would end it twice
        self.close()
        self.http.connection_lost(error)

    def pause_writing(self) -> None:
        """Called when the client leaves unread what was sent."""
        self.stalled = True
        if self.phase is Phase.STREAMING:
            self._limit(READ_TIMEOUT, Drop.TOO_SLOW)
        self.http.pause_writing()

    def resume_writing(self) -> None:
        """Called when it has read."""
        self.stalled = False
        if self.phase is Phase.STREAMING:
            self._no_limit()
        self.http.resume_writing()


class Connections:
    """All connections. When all places are taken, a new one gets the place of the one that has idled longest."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._all: dict[RequestHandler, Connection] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, http: RequestHandler, *, scarce: bool = False) -> Connection | None:
        """Return a place for a connection; None: every place has a stream, or an answer that is being made.

        ``scarce``: descriptors are, and there are places for a few connections only.
        """
        if len(self._all) >= (FEW if scarce else MAX_CONNECTIONS) and not self._make_room():
            self._faults.drop(Drop.TOO_MANY)
            return None
        connection = self._all[http] = Connection(http, self)
        return connection

    def _make_room(self) -> bool:
        idle = [one for one in self._all.values() if one.phase in WAITING]
        idle = idle or [one for one in self._all.values() if one.phase is Phase.ANSWERING and one.stalled]
        if not idle:
            return False
        min(idle, key=_since).close(Drop.TOO_MANY)
        return True

    def closed(self, connection: Connection, drop: Drop | None) -> None:
        """Called by a connection that closes."""
        self._all.pop(connection.http, None)
        if drop is not None:
            self._faults.drop(drop)

    @contextmanager
    def answering(self, request: web.Request) -> Iterator[Connection | None]:
        """Count a connection as answering for as long as the block lasts; None: it is gone."""
        connection = self._all.get(request.protocol)
        if connection is not None:
            connection.enter(Phase.ANSWERING)
        try:
            yield connection
        finally:
            if connection is not None:
                connection.enter(Phase.IDLE)

    def close(self) -> None:
        """End all of them."""
        for connection in tuple(self._all.values()):
            connection.close()


def prepare(sock: socket.socket) -> None:
    """Have the kernel end a connection over a network whose other end does not acknowledge what is sent (tcp(7))."""
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):  # it has left already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_TIMEOUT * 1000))


def _since(connection: Connection) -> float:
    return connection.since
