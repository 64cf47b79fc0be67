"""A listening socket for one inbound QEMU, which reconnects when it has lost its connection.

Every peer that connects there counts as QEMU, so a unix socket is accessible to the guard's own user only.
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

#: permissions of a unix socket
MODE = 0o600
#: A QEMU on another machine that has vanished is detected after a minute: seconds of silence, seconds between probes,
#: and probes (tcp(7)).
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


class QemuListener:
    """The listening socket of one inbound QEMU. A new connection waits until the present one has ended.

    Of several waiting connections only the newest is kept: the older ones belong to a QEMU that died. A new connection
    never replaces the one in use.
    """

    def __init__(self, address: Address, name: str = "") -> None:
        """Listen; ``name`` is the address in the log. Raises `UnavailableError` when that fails.

        The socket of a passed descriptor is closed at the end: it must be a duplicate (`duplicate_listening`).
        """
        name = name or str(address)
        self._waiting: tuple[socket.socket, Peer] | None = None
        self._arrived = asyncio.Event()
        self._listener = Listener(address, self._accepted, mode=MODE, label=f"qemu_listen={name}")
        log.info("waiting for QEMU to connect at %s", name)

    async def next(self) -> socket.socket:
        """Return the next connection, which the caller owns."""
        while self._waiting is None:
            self._arrived.clear()
            await self._arrived.wait()
        (sock, peer), self._waiting = self._waiting, None
        sock.setblocking(False)  # a silent QEMU must not block the process
        log.info("a QEMU connects: %s", peer)
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        return sock

    def close(self) -> None:
        """Stop listening, and close the waiting connection."""
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


def duplicate_listening(address: Address) -> Address:
    """Return an address that its user may close: for a passed descriptor, a duplicate of the listening socket.

    The descriptor itself stays open as long as the process, so that its number is never reused. Raises
    `UnavailableError` where it is not a listening socket.
    """
    if not isinstance(address, FdAddress):
        return address
    try:
        with socket.socket(fileno=os.dup(address.number)) as sock:
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise UnavailableError(f"cannot listen at {address}: it is not a listening stream socket")
            return FdAddress(sock.detach())
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"cannot listen at {address}: {getattr(error, 'strerror', error)}") from error


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
