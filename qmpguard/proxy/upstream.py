"""Reaching QEMU: dialling its socket with back-off, or being dialled; then greeting and negotiation.

QEMU serves one connection per monitor and its backlog is one, so nothing but this module ever connects there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.address import Address, FdAddress, Inbound, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.inbound import answer
from qmpguard.wire.replies import Greeting, OddReply, QemuEvent, Splitter, find_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.address import QemuAddress

log = logging.getLogger(__name__)

#: seconds between attempts: the first and the longest. QEMU starts in about a tenth of a second.
FIRST_DELAY, LONGEST_DELAY = 0.05, 2.0
#: seconds that one attempt to connect may take
CONNECT_TIMEOUT = 5.0
#: seconds without a greeting after which the log says that another client may hold the monitor
SILENCE = 5.0
#: seconds without a greeting after which the connection is tried anew
GREETING_TIMEOUT = 60.0

#: bytes of the negotiation's id, by which its reply is told from one to who was connected before; QEMU has eight
ID_SIZE = 7

_NEGOTIATE = {
    True: b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": %d}\n',
    False: b'{"execute": "qmp_capabilities", "id": %d}\n',
}


async def connect(address: Address) -> socket.socket:
    """Return a connected socket. Raises `OSError` or `TimeoutError`."""
    match address:
        case FdAddress(number):
            sock = socket.socket(fileno=number)
            sock.setblocking(False)
            return sock
        case UnixAddress(path):
            return await _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)
        case TcpAddress(host, port):
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return await _connected(sock, (host, port))


async def _connected(sock: socket.socket, where: str | tuple[str, int]) -> socket.socket:
    try:
        sock.setblocking(False)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def whose(sock: socket.socket, address: QemuAddress) -> tuple[int, ...] | None:
    """Return what tells one QEMU from another at the same unix socket; None where nothing does.

    That is the process that listens (unix(7): SO_PEERCRED) and the socket's file, which each QEMU makes anew.
    """
    if not isinstance(address, UnixAddress):
        return None
    try:
        file = Path(address.path).stat()
        (pid,) = struct.unpack("i8x", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return None
    return pid, file.st_dev, file.st_ino, file.st_mtime_ns


def reach(address: QemuAddress) -> AsyncGenerator[socket.socket]:
    """Return the connections to QEMU, one after the other, whoever makes them."""
    return answer(address.at) if isinstance(address, Inbound) else dial(address)


async def dial(address: Address) -> AsyncGenerator[socket.socket]:
    """Yield connected sockets, for ever; waits between attempts, longer each time until one succeeds."""
    delay, last = FIRST_DELAY, ""
    while True:
        try:
            sock = await connect(address)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "no answer"
            if reason != last:
                log.info("waiting for QEMU at %s: %s", address, reason)
                last = reason
            if isinstance(address, FdAddress):
                raise UnavailableError(f"{address}: {reason}; a descriptor cannot be opened again") from error
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)
        else:
            yield sock
            delay, last = FIRST_DELAY, ""
            if isinstance(address, FdAddress):
                raise UnavailableError(f"{address}: the connection has ended; a descriptor cannot be opened again")
            await asyncio.sleep(delay)


async def negotiate(sock: socket.socket, where: str) -> tuple[Greeting, list[QemuEvent]]:
    """Return QEMU's greeting, with out-of-band enabled if it offers that, and events that came already.

    QEMU executes one request at a time and answers it to whoever is connected by then. So the reply to a client that
    has left may come first; behind the negotiation's own there is none.
    Raises `OSError`, `TimeoutError`, or `ValueError` when what answers is not QEMU.
    """
    async with asyncio.timeout(GREETING_TIMEOUT):
        loop = asyncio.get_running_loop()
        splitter = Splitter()
        reminder = loop.call_later(
            SILENCE, log.warning, "%s accepts connections but sends no greeting: another client may hold it", where
        )
        try:
            messages = await _receive(loop, sock, splitter)
        finally:
            reminder.cancel()
        greeting = Greeting(messages.pop(0))
        number = int.from_bytes(os.urandom(ID_SIZE))
        await loop.sock_sendall(sock, _NEGOTIATE["oob" in greeting.offered] % number)
        while splitter.held or not any(_answers(number, message) for message in messages):
            messages += await _receive(loop, sock, splitter)
        if b'"return"' not in next(message for message in messages if _answers(number, message)):
            raise ValueError("QEMU refused the negotiation")
        return greeting, [event for message in messages if (event := OddReply(message).event) is not None]


def _answers(number: int, message: bytes) -> bool:
    place = find_id(message)
    return place is not None and int(message[slice(*place)]) == number


async def _receive(loop: asyncio.AbstractEventLoop, sock: socket.socket, splitter: Splitter) -> list[bytes]:
    while True:
        # the end of a message is the end of what QEMU has sent so far, but for events, which are kept
        data = await loop.sock_recv(sock, 64 * 1024)
        if not data:
            raise ConnectionResetError("it closed the connection")
        if messages := splitter.feed(data):
            return messages
