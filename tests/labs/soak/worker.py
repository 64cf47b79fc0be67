"""A process that works for the soak: it takes orders by lines of standard input, and tells by lines of JSON.

The end of standard input ends it, so it never outlives the soak.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

#: the niceness of what makes load: the guard and its innocent clients go first
NICE = 10


def be_nice() -> None:
    """Let others run first."""
    os.nice(NICE)


async def orders() -> AsyncGenerator[tuple[str, str, float]]:
    """Yield each order: the fault's name, the VM and seconds. Ends with standard input."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        name, vm, seconds = line.decode().split()
        yield name, vm, float(seconds)


def tell(message: dict[str, Any]) -> None:
    """Print a message for the soak."""
    print(json.dumps(message), flush=True)


class Hand:
    """A worker, seen from the soak. ``told`` is called with each message."""

    def __init__(self, process: asyncio.subprocess.Process, told: Callable[[dict[str, Any]], None]) -> None:
        self._process = process
        self._told = told

    @classmethod
    async def start(cls, told: Callable[[dict[str, Any]], None], module: str, *words: str) -> Hand:
        """Start a worker that is a module of the soak."""
        command = (sys.executable, "-m", f"tests.labs.soak.{module}", *words)
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe), told)

    async def listen(self) -> None:
        """Hear the worker until it ends. Raises `RuntimeError` when it ends badly: then the soak says nothing."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._told(json.loads(line))
        if code := await self._process.wait():
            raise RuntimeError(f"a worker of the soak ended with {code}")

    def order(self, line: str) -> None:
        """Give an order; a worker that has ended gets none."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode())

    def dismiss(self) -> None:
        """Let the worker end."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def gone(self) -> None:
        """Wait for the worker's end; it is killed where that takes too long."""
        self.dismiss()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
