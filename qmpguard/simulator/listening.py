"""The sockets where simulated QEMUs listen."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.address import TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qmpguard.address import Address

    #: called with each connection
    Converse: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: connections that wait while another client holds the monitor
_BACKLOG = 16


async def listen(address: Address, converse: Converse) -> asyncio.Server:
    """Call ``converse`` with each connection to an address.

    Raises `UsageError` for a descriptor, and `UnavailableError` where the socket cannot be had.
    """
    listener = _socket(address)
    if isinstance(address, UnixAddress):
        return await asyncio.start_unix_server(converse, sock=listener, backlog=_BACKLOG)
    return await asyncio.start_server(converse, sock=listener, backlog=_BACKLOG)


def _socket(address: Address) -> socket.socket:
    where: str | tuple[str, int]
    match address:
        case UnixAddress(path):
            family, where = socket.AF_UNIX, path
        case TcpAddress(host, port):
            family, where = socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)
        case _:
            raise UsageError(f"{address}: a simulated QEMU listens at a unix socket or at TCP")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"{address}: {error.strerror}") from error
    return listener
