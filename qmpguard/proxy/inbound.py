"""QEMU dials in: a listening socket for one QEMU, which reconnects when it has lost its connection.

Whoever connects there is taken for QEMU, so a unix socket is for the guard's own user only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from qmpguard.proxy.listener import Listener

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.address import Address
    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: who may connect to a unix socket
MODE = 0o600
#: A QEMU on another machine that is gone without a word is noticed after a minute: seconds of silence, seconds
#: between probes, and probes (tcp(7)).
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


async def answer(address: Address) -> AsyncGenerator[socket.socket]:
    """Yield the connections that QEMU makes, one at a time. Raises `UnavailableError` when it cannot listen."""
    door = _Door()
    listener = Listener(address, door.knock, mode=MODE)
    log.info("waiting for QEMU to connect at %s", address)
    try:
        while True:
            yield await door.next()
    finally:
        listener.close()
        door.close()


class _Door:
    """Where a connection waits until the one before it has ended. The newest is kept: a QEMU that died had the others.

    The one in use is never taken away by another that comes.
    """

    def __init__(self) -> None:
        self._waiting: socket.socket | None = None
        self._knocked = asyncio.Event()

    def knock(self, sock: socket.socket, peer: Peer) -> None:
        log.info("a QEMU connects: %s", peer)
        self.close()
        self._waiting = sock
        self._knocked.set()

    async def next(self) -> socket.socket:
        while (sock := self._waiting) is None:
            self._knocked.clear()
            await self._knocked.wait()
        self._waiting = None
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return sock

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
