"""QEMU dials in: a listening socket for one QEMU, which reconnects when it has lost its connection.

Whoever connects there is taken for QEMU, so a unix socket is for the guard's own user only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.listener import Listener

if TYPE_CHECKING:
    from qmpguard.address import Address
    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: who may connect to a unix socket
MODE = 0o600
#: A QEMU on another machine that is gone without a word is noticed after a minute: seconds of silence, seconds
#: between probes, and probes (tcp(7)).
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class QemuListener:
    """Where one QEMU dials in. A connection waits here until the one before it has ended.

    The newest of those that wait is kept: a QEMU that died had the others. The one in use is never taken away by
    another that comes.
    """

    def __init__(self, address: Address) -> None:
        """Listen. Raises `UnavailableError` when that cannot be."""
        self._waiting: tuple[socket.socket, Peer] | None = None
        self._arrived = asyncio.Event()
        self._listener = Listener(own(address), self._accepted, mode=MODE, label=f"qemu_listen={address}")
        log.info("waiting for QEMU to connect at %s", address)

    async def next(self) -> socket.socket:
        """Return the next connection, which the caller owns."""
        while self._waiting is None:
            self._arrived.clear()
            await self._arrived.wait()
        (sock, peer), self._waiting = self._waiting, None
        sock.setblocking(False)  # else a QEMU that says nothing would hold the whole process
        log.info("a QEMU connects: %s", peer)
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        return sock

    def close(self) -> None:
        """Stop listening, and close who waits."""
        self._listener.close()
        self._drop()

    def _accepted(self, sock: socket.socket, peer: Peer) -> None:
        self._drop()
        self._waiting = sock, peer
        self._arrived.set()

    def _drop(self) -> None:
        if self._waiting is not None:
            self._waiting[0].close()
            self._waiting = None


def own(address: Address) -> Address:
    """Return an address that its user may close: of a passed listening socket a duplicate.

    The socket itself stays open as long as the process, so that its number never becomes that of another one.
    Raises `UnavailableError` for what is no listening socket.
    """
    if not isinstance(address, FdAddress):
        return address
    try:
        with socket.socket(fileno=os.dup(address.number)) as sock:
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise UnavailableError(f"cannot listen at {address}: it is no listening stream socket")
            return FdAddress(sock.detach())
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"cannot listen at {address}: {getattr(error, 'strerror', error)}") from error


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
