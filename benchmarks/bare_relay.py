"""The limit: the least that asyncio can do between two sockets. It copies bytes and looks at none of them.

As a process: `python -m benchmarks.bare_relay QEMU LISTEN`, for one client.
"""

from __future__ import annotations

import asyncio
import socket
import sys


def copy(loop: asyncio.AbstractEventLoop, source: socket.socket, target: socket.socket, over: asyncio.Event) -> None:
    """Copy from one socket to another, which may block: there is only one client, and it reads."""

    def readable() -> None:
        data = source.recv(65536)
        if data:
            target.sendall(data)
        else:
            loop.remove_reader(source)
            over.set()

    loop.add_reader(source, readable)


async def relay(qemu: str, listen: str) -> None:
    """Serve one client until it or QEMU goes."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as up:
        door.bind(listen)
        door.listen()
        client, _ = door.accept()
        up.connect(qemu)
        with client:
            copy(loop, client, up, over)
            copy(loop, up, client, over)
            await over.wait()


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
