"""Every command with an id of one shape, one after the other: none of these pairs is left to chance."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from qmpguard.policy.readers import READERS
from tests.labs.hostile.account import Account, Fault
from tests.labs.hostile.client import TIMEOUT
from tests.labs.hostile.commands import IN_BAND, LIKE_JUNK, LINES, OUT_OF_BAND, execute, hmp
from tests.labs.hostile.ids import SHAPES, SMALL
from tests.labs.hostile.wire import Wire, dial

if TYPE_CHECKING:
    from pathlib import Path

#: requests with an id that is large; each takes the guard a quarter of a second
FEW = 8


def all_requests(random: Random) -> list[bytes]:
    """Return every request without its id: of each kind, of each command that is judged, and of each line of HMP."""
    kinds = [make(random) for name, make in {**IN_BAND, **OUT_OF_BAND}.items() if name not in LIKE_JUNK]
    return [*kinds, *(execute(command, b"{}") for command in READERS), *map(hmp, LINES)]


class Sweep:
    """A client that waits for each reply before it goes on."""

    def __init__(self, shape: str, path: Path) -> None:
        self._shape = shape
        self._path = path
        self._account = Account()
        self._wire: Wire

    async def run(self) -> None:
        """Ask everything; raises `Fault` or `TimeoutError`."""
        self._wire = await dial(self._path)
        try:
            await self._wire.lines()
            await self._ask(execute("qmp_capabilities", b'{"enable": ["oob"]}'), 0)
            requests = all_requests(Random(self._shape))
            for serial, request in enumerate(requests if self._shape in SMALL else requests[:: len(requests) // FEW]):
                await self._ask(request, serial)
        finally:
            self._wire.close()

    async def _ask(self, request: bytes, serial: int) -> None:
        identity = SHAPES[self._shape](Random(serial), serial)
        self._account.owe(f"{request[:80]!r}", identity)
        await self._wire.send(request + (b"" if identity.raw is None else b', "id": ' + identity.raw) + b"}")
        async with asyncio.timeout(TIMEOUT):
            while self._account.owes:
                if not (lines := await self._wire.lines()):
                    raise Fault(f"closed in place of a reply to {request[:80]!r}")
                for line in lines:
                    self._account.take(line)
