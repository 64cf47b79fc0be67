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
from qmpguard.proxy.listening.listener import LOG_INTERVAL, LOG_LINES, Listener
from qmpguard.proxy.listening.peer import has_hung_up
from qmpguard.rate import LogRate

if TYPE_CHECKING:
    from qmpguard.address import Address
    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: permissions of a unix socket
MODE = 0o600
#: seconds for the greeting of a QEMU that is not served, and how many are waited for; of more the oldest is closed
DISMISSAL, MAX_DISMISSED = 60.0, 16
#: why a connection is refused
IN_USE = "a QEMU is connected here already"
#: A QEMU on another machine that has vanished is detected after a minute: seconds of silence, seconds between probes,
#: and probes (tcp(7)). While it leaves bytes unacknowledged, as those of a heartbeat, the kernel does not probe, and
#: would send them again for a quarter of an hour: `TCP_USER_TIMEOUT`, in milliseconds, ends that.
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 60_000,
}


class Dismissal:
    """The connections of QEMUs that are not served. Each is closed when its QEMU has greeted; nothing is read from it.

    A QEMU that starts connects before it has its monitor. Where the connection is closed in between, QEMU dies of
    SIGSEGV (7.2 and 11.1, at most tries). One that has greeted connects again.
    """

    def __init__(self) -> None:
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}

    def add(self, sock: socket.socket) -> None:
        """Close a connection when something has come from it, when its peer has left, or after `DISMISSAL`."""
        if len(self._timers) >= MAX_DISMISSED:
            self._end(next(iter(self._timers)))
        loop = asyncio.get_running_loop()
        self._timers[sock] = loop.call_later(DISMISSAL, self._end, sock)
        loop.add_reader(sock.fileno(), self._end, sock)

    def close(self) -> None:
        """Close them all."""
        for sock in tuple(self._timers):
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        timer = self._timers.pop(sock)
        timer.cancel()
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()


class QemuListener:
    """The listening socket of one inbound QEMU. While a QEMU is connected, a second connection is turned away.

    It may be QEMU's own: a client can make QEMU connect to the address at which its guard listens. If that connection
    waited, it would be served as QEMU when the present one has ended. A connection whose peer has closed it, or that
    the guard has closed, is in use no more. Then new ones wait until the guard asks for the next. Of several waiting
    ones only the newest is kept: the older ones belong to a QEMU that died.
    """

    def __init__(self, address: Address, name: str = "") -> None:
        """Listen; ``name`` is the address in the log. Raises `UnavailableError` when that fails.

        The socket of a passed descriptor is closed at the end: it must be a duplicate (`duplicate_listening`).
        """
        name = name or str(address)
        self._waiting: tuple[socket.socket, Peer] | None = None
        self._served: socket.socket | None = None  # the connection that was taken last; its user closes it
        self._arrived = asyncio.Event()
        self._dismissal = Dismissal()
        self._rate = LogRate(LOG_LINES, LOG_INTERVAL)
        self._name = name
        self._listener = Listener(address, self._accepted, mode=MODE, label=f"qemu_listen={name}")
        log.info("waiting for QEMU to connect at %s", name)

    async def next(self) -> socket.socket:
        """Return the next connection, which the caller owns."""
        while self._waiting is None:
            self._arrived.clear()
            await self._arrived.wait()
        (sock, peer), self._waiting = self._waiting, None
        self._served = sock
        sock.setblocking(False)  # a silent QEMU must not block the process
        log.info("a QEMU connects: %s", peer)
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock)
        return sock

    def serves(self, sock: socket.socket) -> None:
        """Take a connection that was inherited for the one in use. A connection that waits is closed."""
        self._served = sock
        if self._waiting is not None and self.is_in_use:
            self._refused(self._waiting[1])
            self._drop()

    @property
    def is_in_use(self) -> bool:
        """Say whether a QEMU is connected."""
        sock = self._served
        return sock is not None and sock.fileno() >= 0 and not has_hung_up(sock)

    @property
    def sockname(self) -> str | bytes | tuple[object, ...]:
        """The name from getsockname(2), as `Listener.sockname`."""
        return self._listener.sockname

    def _refused(self, peer: Peer) -> None:
        if (more := self._rate.admit("refused", asyncio.get_running_loop().time())) is not None:
            log.warning("qemu_listen=%s client %s refused: %s%s", self._name, peer, IN_USE, more)

    def close(self) -> None:
        """Stop listening, and close the waiting connections."""
        self._listener.close()
        self._drop()
        self._dismissal.close()

    def _accepted(self, sock: socket.socket, peer: Peer) -> None:
        if self.is_in_use:
            self._refused(peer)
            self._dismissal.add(sock)
            return
        self._drop()
        self._waiting = sock, peer
        self._arrived.set()

    def _drop(self) -> None:
        if self._waiting is not None:
            self._dismissal.add(self._waiting[0])
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
