"""What a forwarded command costs inside the guard: its client and its QEMU are callbacks in the same loop.

No process is woken and none waits, so the figures are steady where the machine is not. `python -m benchmarks.inside`
prints them, beside those of a relay that copies bytes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from benchmarks.bare_relay import copy
from benchmarks.client import request
from qmpguard.address import UnixAddress
from qmpguard.policy.policy import Policy
from qmpguard.proxy.vm import Vm
from qmpguard.record import Peer

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'
)
REQUEST = request("query-status")
STATUS = b'{"return": {"status": "running", "singlestep": false, "running": true}, "id": %b}\r\n'
_REQUEST = re.compile(rb'"(?:execute|exec-oob)": ?"([^"]*)".*?"id": ?("?[^"}]+"?)\}')
#: commands in one measurement, and measurements; the least disturbed one counts
COMMANDS, ROUNDS = 500, 60
#: seconds for the guard to have looked at its QEMU
SETTLE = 2.0


def answer(sock: socket.socket) -> None:
    """Be QEMU: answer what has arrived."""
    for command, identity in _REQUEST.findall(sock.recv(65536)):
        reply = b'{"return": [], "id": %b}\r\n' if b"schema" in command else STATUS
        sock.send(reply % identity)


class Client:
    """Asks as soon as it has an answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._left = 0
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, self._next)

    async def ask(self, count: int) -> float:
        """Return the CPU seconds of one command, on the average of ``count``."""
        self._left, self._done = count, self._loop.create_future()
        start = time.process_time()
        self._sock.send(REQUEST)
        await self._done
        return (time.process_time() - start) / count

    def _next(self) -> None:
        self._sock.recv(65536)
        self._left -= 1
        if self._left > 0:
            self._sock.send(REQUEST)
        elif not self._done.done():
            self._done.set_result(None)


async def least(client: Client) -> float:
    """Return the CPU seconds of one command in the round that was disturbed least."""
    return min([await client.ask(COMMANDS) for _ in range(ROUNDS)])


async def nothing() -> float:
    """Measure the client and the QEMU alone."""
    client, qemu = socket.socketpair()
    asyncio.get_running_loop().add_reader(qemu, answer, qemu)
    return await least(Client(client))


async def relay() -> float:
    """Measure them with a relay between that copies bytes."""
    loop = asyncio.get_running_loop()
    (client, down), (up, qemu) = socket.socketpair(), socket.socketpair()
    over = asyncio.Event()
    copy(loop, down, up, over)
    copy(loop, up, down, over)
    loop.add_reader(qemu, answer, qemu)
    return await least(Client(client))


async def guard() -> float:
    """Measure them with the guard between."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        path = str(Path(folder) / "qemu")
        door.bind(path)
        door.listen()
        loop.add_reader(door, partial(_accept, loop, door))
        vm = Vm("vm", UnixAddress(path), Policy())
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(vm.run())
            await vm.connected.wait()
            ours, theirs = socket.socketpair()
            vm.attach(theirs, Peer(1))
            ours.send(request("qmp_capabilities"))
            client = Client(ours)
            await asyncio.sleep(SETTLE)
            seconds = await least(client)
            running.cancel()
        return seconds


def _accept(loop: asyncio.AbstractEventLoop, door: socket.socket) -> None:
    sock, _ = door.accept()
    sock.send(GREETING)
    loop.add_reader(sock, answer, sock)


def main() -> None:
    """Print microseconds for each."""
    logging.disable()
    measures: dict[str, Callable[[], Coroutine[object, object, float]]] = {
        "client and QEMU alone": nothing,
        "with a relay between them": relay,
        "with the guard between them": guard,
    }
    for name, measure in measures.items():
        print(f"{asyncio.run(measure()) * 1e6:5.1f} µs CPU per command: {name}")


if __name__ == "__main__":
    main()
