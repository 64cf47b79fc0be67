"""Connecting to QEMU's socket, or using a connection that was passed.

QEMU serves one connection per monitor, with a backlog of one, so no other module connects to it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.address import Address, FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.threads import BlockingCalls

if TYPE_CHECKING:
    from qmpguard.address import QemuAddress

#: seconds for one attempt to connect
CONNECT_TIMEOUT = 5.0
#: concurrent name look-ups: as many VMs may wait for a DNS that hangs without delaying others
LOOKUPS = 16

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

_lookups = BlockingCalls("looking up the host", CONNECT_TIMEOUT, LOOKUPS)


async def connect(address: Address) -> socket.socket:
    """Return a connected socket. Raises `OSError`, `TimeoutError` or `UnavailableError`."""
    match address:
        case FdAddress(number):
            return passed(number)
        case UnixAddress(path):
            return _connected_unix(path)
        case TcpAddress(host, port):
            family, where = await _looked_up(host, port)
            return await _connected_tcp(family, where)


def check(address: QemuAddress) -> None:
    """Raise `UnavailableError` for a passed descriptor that is not a connection.

    Other addresses may be served later.
    """
    if isinstance(address, FdAddress):
        try:
            passed(address.number).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnavailableError(f"{address}: {reason}; a descriptor cannot be opened again") from error


def passed(number: int) -> socket.socket:
    """Return a duplicate of a passed socket. Raises `OSError` where the descriptor is not a connected stream socket.

    The descriptor itself stays open as long as the process, so that its number is never reused.
    """
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket")
    sock = socket.socket(fileno=os.dup(number))
    if sock.type != socket.SOCK_STREAM or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError(errno.EINVAL, "it is not a connected stream socket")
    sock.setblocking(False)
    return sock


def hang_up(sock: socket.socket) -> None:
    """Shut a passed connection down, since its original descriptor stays open."""
    with suppress(OSError):  # the peer has closed already
        sock.shutdown(socket.SHUT_RDWR)


def _connected_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # asyncio would treat EAGAIN, the error of a full backlog, as a connection in progress
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connected_tcp(family: int, where: SocketAddress) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _looked_up(host: str, port: int) -> tuple[int, SocketAddress]:
    """Return the family and the address of a host. Raises `UnavailableError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(ValueError):
        ip_address(host)
        return family, (host, port)
    try:
        found = await _lookups.call(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"cannot look up {host!r}: {error}") from error
    return found[0][0], found[0][4]


def peer_identity(sock: socket.socket, address: QemuAddress) -> tuple[int, ...] | None:
    """Return the identity of the QEMU at a unix socket; None for other addresses.

    It consists of the listening process (unix(7): SO_PEERCRED) and the socket's file, which each QEMU creates.
    """
    if not isinstance(address, UnixAddress):
        return None
    try:
        file = Path(address.path).stat()
        (pid,) = struct.unpack("i8x", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return None
    return pid, file.st_dev, file.st_ino, file.st_mtime_ns
