"""An honest client beside hostile ones: every request is to be answered, in order, before its patience ends."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import TYPE_CHECKING

from tests.labs.hostile.account import Fault

if TYPE_CHECKING:
    from pathlib import Path

#: seconds for any reply; hostile clients may keep the machine busy, and it has other work as well
TIMEOUT = 45.0
#: requests under way at once, and the pause between two such batches in seconds
BATCH, PAUSE = 3, 0.01


class Bystander:
    """A client of a VM, from before the first hostile client until after the last; ``worst`` is its longest wait.

    ``pause``: seconds between two batches of its requests.
    """

    def __init__(self, path: Path, pause: float = PAUSE) -> None:
        self._path = path
        self._pause = pause
        self.worst = 0.0
        self.served = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until it is told to stop; raises `Fault` where a reply is not what it is to be."""
        reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 26)
        try:
            await self._reply(reader)
            writer.write(b'{"execute": "qmp_capabilities", "id": "n"}')
            self._check(await self._reply(reader), "n")
            while not stop.is_set():
                await self._batch(reader, writer)
                await asyncio.sleep(self._pause)
        except ConnectionError as error:
            raise Fault(f"a bystander at {self._path.name} was cut off: {error!r}") from error
        finally:
            writer.close()

    async def _batch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = monotonic()
        identities = [f"{self.served + i}" for i in range(BATCH)]
        for identity in identities:
            writer.write(json.dumps({"execute": "query-status", "id": identity}).encode())
        for identity in identities:
            self._check(await self._reply(reader), identity)
            self.served += 1
        self.worst = max(self.worst, monotonic() - begun)

    def _check(self, line: bytes, identity: str) -> None:
        reply = json.loads(line)
        if reply.get("id") != identity or "return" not in reply:
            raise Fault(f"a bystander at {self._path.name} was told {line[:200]!r} in place of its reply to {identity}")

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        line = b'{"event"'
        while b'"event"' in line[:80]:
            try:
                async with asyncio.timeout(TIMEOUT):
                    line = await reader.readline()
            except TimeoutError as error:
                raise Fault(f"a bystander at {self._path.name} waits for {TIMEOUT:g} s") from error
            if not line:
                raise Fault(f"a bystander at {self._path.name} was cut off")
        return line
