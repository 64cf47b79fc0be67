"""The HTTP server of the admin interface: its socket, its connections, its shutdown."""

from __future__ import annotations

import asyncio
import logging
import socket
from itertools import chain, repeat
from typing import TYPE_CHECKING

from aiohttp import web

from qmpguard.address import TcpAddress
from qmpguard.admin.auth import Auth, read_token
from qmpguard.admin.connections import BODY_TIMEOUT, IDLE_TIMEOUT, Connections, set_user_timeout
from qmpguard.admin.faults import Drop, Faults
from qmpguard.admin.routes import Routes
from qmpguard.admin.slices import Slices
from qmpguard.admin.sse import EventFeed
from qmpguard.errors import ConfigError
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.sockets.descriptors import is_reserved
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpguard.address import Address
    from qmpguard.admin.connections import Connection
    from qmpguard.admin.state_cache import VmState
    from qmpguard.record import Peer, Run

log = logging.getLogger(__name__)

#: seconds that a response may still take at the shutdown
SHUTDOWN_TIMEOUT = 1.0
#: seconds before the feed restarts after an exception; the last value is repeated
RESTART_DELAYS = (1.0, 2.0, 5.0, 15.0, 60.0)
#: seconds between two checks of the socket's file
FILE_CHECK_INTERVAL = 5.0


class Admin:
    """Serves one process's admin interface. Raises `ConfigError` for TCP without a token."""

    def __init__(
        self,
        listen: Address,
        vms: Callable[[], Sequence[VmState]],
        run: Run,
        upkeep: Callable[[], Upkeep] = Upkeep,
        *,
        token_file: str | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        if isinstance(listen, TcpAddress) and token_file is None:
            raise ConfigError(
                f"the admin interface at {listen} needs a token file: any host that reaches it could read"
            )
        self.opened = asyncio.Event()
        self._listen = listen
        names = {*hosts, listen.host} if isinstance(listen, TcpAddress) else set(hosts)
        self._auth = Auth(read_token(token_file) if token_file else None, names)
        self._faults = Faults()
        self._connections = Connections(self._faults)
        self._feed = EventFeed(vms, run, Slices(), self._faults)
        routes = Routes(vms, run, self._feed, upkeep, self._faults)
        self._runner = web.AppRunner(
            routes.application(self._auth, self._connections),
            access_log=None,
            logger=self._faults.logger(),
            handle_signals=False,
            handler_cancellation=True,  # a stream ends when its client disconnects
            shutdown_timeout=SHUTDOWN_TIMEOUT,
            keepalive_timeout=IDLE_TIMEOUT,
            lingering_time=BODY_TIMEOUT,
            auto_decompress=False,  # no handler reads a body
        )
        self._tasks = Tasks("admin")

    async def run(self) -> None:
        """Serve until cancelled. Raises `UnavailableError` when the socket cannot be opened, and nothing else."""
        await self._runner.setup()
        try:
            async with self._tasks:
                await self._listen_until_cancelled()
        finally:
            await self._end()

    async def _listen_until_cancelled(self) -> None:
        self._listener = Listener(self._listen, self._accepted, label="admin")
        try:
            log.info("admin=%s", self._listen)
            self.opened.set()
            self._tasks.start("admin-feed", self._run_feed())
            self._tasks.start("admin-socket", self._restore_socket_file())
            await asyncio.get_running_loop().create_future()
        finally:
            with self._faults.contained("close"):
                self._listener.close()

    async def _end(self) -> None:
        self._feed.close()
        with self._faults.contained("cleanup"):
            await self._runner.cleanup()
        self._connections.close()

    async def _run_feed(self) -> None:
        """Run the feed; restart it after an exception, with a growing delay."""
        for pause in chain(RESTART_DELAYS, repeat(RESTART_DELAYS[-1])):
            with self._faults.contained("feed"):
                await self._feed.run()
            await asyncio.sleep(pause)

    async def _restore_socket_file(self) -> None:
        """Listen again when the socket's file was removed."""
        while True:
            await asyncio.sleep(FILE_CHECK_INTERVAL)
            with self._faults.contained("socket"):
                self._listener.restore()

    def _accepted(self, sock: socket.socket, _: Peer) -> None:
        server = self._runner.server
        scarce = is_reserved(sock.fileno())
        connection = None if server is None else self._connections.admit(server(), scarce=scarce)
        if connection is None:
            sock.close()
            return

        def on_fault(_: Exception) -> None:
            sock.close()
            connection.close(Drop.FAULT)

        self._tasks.start("admin-connection", self._serve(sock, connection), on_fault)

    async def _serve(self, sock: socket.socket, connection: Connection) -> None:
        """Attach a connection to the event loop; aiohttp serves it from then on."""
        sock.setblocking(False)
        set_user_timeout(sock)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:  # the client has closed already
            sock.close()
            connection.close()
