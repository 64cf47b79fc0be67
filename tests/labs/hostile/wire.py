"""A client's socket, as near to the system as a hostile client is."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from tests.support.guarding import eventually

if TYPE_CHECKING:
    from pathlib import Path

#: bytes of one read
READ = 1 << 18


class Wire:
    """A connection to a unix socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._held = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def send_with(self, data: bytes, descriptors: int) -> None:
        """Send a few bytes with so many descriptors, all of /dev/null."""
        number = os.open(os.devnull, os.O_RDONLY)
        try:
            await eventually(lambda: self._pass(data, [number] * descriptors))
        finally:
            os.close(number)

    def _pass(self, data: bytes, numbers: list[int]) -> bool:
        try:
            assert socket.send_fds(self._sock, [data], numbers) == len(data)
        except BlockingIOError:
            return False
        return True

    async def lines(self) -> list[bytes]:
        """Return the lines that have come, at least one; none at the end of the connection."""
        pieces = [self._held]
        while data := await self._loop.sock_recv(self._sock, READ):
            pieces.append(data)
            if b"\n" in data:
                *lines, self._held = b"".join(pieces).split(b"\n")
                return lines
        return []

    def end(self) -> None:
        """Close the sending half."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


async def dial(path: Path) -> Wire:
    """Connect; raises `OSError`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
    except BaseException:
        sock.close()
        raise
    return Wire(sock)
