"""The connections of the admin interface: their timeouts, and the one that is closed when the limit is reached.

A connection is always in one phase. Each phase except a stream has a timeout that no received byte extends: a client
that sends or reads a byte a second is closed like a silent one. aiohttp parses the bytes.
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
#: the same while the process has almost no descriptors left: for probes and a scraper
MAX_WHILE_SCARCE = 8
#: seconds for a client's first request, and for each further one from its first byte on; it has a few hundred bytes
REQUEST_TIMEOUT = 10.0
#: seconds without a request: longer than the usual interval of scrapers and reverse proxies (a minute)
IDLE_TIMEOUT = 75.0
#: seconds to build a response and for the client to read it; the largest, of 1,000 VMs, is some MiB
ANSWER_TIMEOUT = 60.0
#: seconds in which the client of a stream must read the sent data
READ_TIMEOUT = 60.0
#: seconds for the rest of a request after its response; no request needs a body here
BODY_TIMEOUT = 5.0


class Phase(Enum):
    """The phase of a connection."""

    NEW = "new"
    RECEIVING = "receiving"
    ANSWERING = "answering"
    IDLE = "idle"
    STREAMING = "streaming"


#: the phases without a complete request: such connections are closed first when the limit is reached
WAITING = frozenset({Phase.NEW, Phase.RECEIVING, Phase.IDLE})


class Connection(asyncio.Protocol):
    """One connection: forwards every callback to aiohttp's protocol, and keeps the phase and its timeout."""

    def __init__(self, http: RequestHandler, table: Connections) -> None:
        self.http = http
        self.phase = Phase.NEW
        self.since = 0.0
        self.stalled = False  # the client does not read
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.enter(Phase.NEW)

    def enter(self, phase: Phase) -> None:
        """Begin a phase, and its timeout."""
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
        """Close the connection at once, and count the reason. Unsent data is lost."""
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
        """Called by asyncio. Closes the connection at once if another one has taken its place meanwhile."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._closed:
            transport.abort()
        self.http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio. The first bytes in phase IDLE begin a request."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.RECEIVING)
        self.http.data_received(data)

    def eof_received(self) -> None:
        """Called by asyncio."""
        self.http.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio; frees the place."""
        self._transport = None  # otherwise close() would abort a transport that asyncio has closed already
        self.close()
        self.http.connection_lost(error)

    def pause_writing(self) -> None:
        """Called when the client does not read the sent data."""
        self.stalled = True
        if self.phase is Phase.STREAMING:
            self._limit(READ_TIMEOUT, Drop.TOO_SLOW)
        self.http.pause_writing()

    def resume_writing(self) -> None:
        """Called when the client has read the sent data."""
        self.stalled = False
        if self.phase is Phase.STREAMING:
            self._no_limit()
        self.http.resume_writing()


class Connections:
    """All connections. At the limit, a new connection replaces the one that has been idle longest."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._all: dict[RequestHandler, Connection] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, http: RequestHandler, *, scarce: bool = False) -> Connection | None:
        """Return a new connection; None: at the limit, and every connection has a stream or a request to answer.

        ``scarce``: descriptors are scarce, so the lower limit holds.
        """
        if len(self._all) >= (MAX_WHILE_SCARCE if scarce else MAX_CONNECTIONS) and not self._make_room():
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
        """Put a request's connection into phase ANSWERING for the block; yields None where it is closed."""
        connection = self._all.get(request.protocol)
        if connection is not None:
            connection.enter(Phase.ANSWERING)
        try:
            yield connection
        finally:
            if connection is not None:
                connection.enter(Phase.IDLE)

    def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._all.values()):
            connection.close()


def set_user_timeout(sock: socket.socket) -> None:
    """Set TCP_USER_TIMEOUT, so that the kernel closes a connection whose peer does not acknowledge data (tcp(7))."""
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):  # the peer has closed already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_TIMEOUT * 1000))


def _since(connection: Connection) -> float:
    return connection.since
