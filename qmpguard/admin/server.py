"""The admin interface as a server: its socket, its connections, its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from qmpguard.address import TcpAddress
from qmpguard.admin.door import Door, read_token
from qmpguard.admin.feed import Feed
from qmpguard.admin.site import Site
from qmpguard.errors import ConfigError
from qmpguard.proxy.counts import Upkeep
from qmpguard.proxy.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpguard.address import Address
    from qmpguard.admin.feed import Vm
    from qmpguard.record import Peer, Run

log = logging.getLogger(__name__)

#: connections at once, streams among them
MAX_CONNECTIONS = 512
#: seconds that an answer may still take at the end
LAST_WORDS = 1.0


class Admin:
    """Serves one process's admin interface. Raises `ConfigError` for TCP without a token."""

    def __init__(
        self,
        listen: Address,
        vms: Callable[[], Sequence[Vm]],
        run: Run,
        upkeep: Callable[[], Upkeep] = Upkeep,
        *,
        token_file: str | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        if isinstance(listen, TcpAddress) and token_file is None:
            raise ConfigError(f"the admin interface at {listen} needs a token file: whoever reaches TCP could read all")
        self.opened = asyncio.Event()
        self._listen = listen
        names = {*hosts, listen.host} if isinstance(listen, TcpAddress) else set(hosts)
        self._door = Door(read_token(token_file) if token_file else None, names)
        self._feed = Feed(vms, run)
        self._site = Site(vms, run, self._feed, upkeep)
        self._runner = web.AppRunner(
            self._site.application(self._door),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # a stream ends with its client
            shutdown_timeout=LAST_WORDS,
        )
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled. Raises `UnavailableError` when the socket cannot be had."""
        await self._runner.setup()
        listener: Listener | None = None
        try:
            async with asyncio.TaskGroup() as self._tasks:
                listener = Listener(self._listen, self._accepted)
                log.info("admin=%s", self._listen)
                self.opened.set()
                await self._feed.run()
        finally:
            if listener is not None:
                listener.close()
            self._feed.close()
            await self._runner.cleanup()

    def _accepted(self, sock: socket.socket, _: Peer) -> None:
        assert self._runner.server is not None
        assert self._tasks is not None
        if len(self._runner.server.connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        self._tasks.create_task(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        assert self._runner.server is not None
        sock.setblocking(False)
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._runner.server, sock)
