"""The admin interface's share of the event loop: slices of work, and a turn for everybody else between two of them.

What takes long is written as steps: an iterator that yields a few hundred bytes, or none, after some microseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: seconds of work in one turn of the loop: so much longer a VM's client waits at most, about QEMU's own round trips
SLICE = 0.003
#: bytes of one slice, at least but for the last step: what a transport buffers before it asks its writer to wait
PIECE = 64 * 1024


class Slices:
    """Runs the steps of all streams and answers, one slice in a turn of the loop, however many there are.

    ``clock`` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._turn = asyncio.Lock()
        self._used = 0.0

    async def slice(self, steps: Iterator[bytes]) -> list[bytes]:
        """Return what the next slice of steps has made; empty: there is no more. Raises what a step raises."""
        async with self._turn:
            try:
                return self._run(steps)
            finally:
                if self._used >= SLICE:
                    self._used = 0.0
                    await asyncio.sleep(0)  # the lock is held: nobody's slice shares the turn with this one

    async def whole(self, steps: Iterator[bytes]) -> list[bytes]:
        """Return all that the steps make, as pieces."""
        pieces = []
        while made := await self.slice(steps):
            pieces.append(b"".join(made))
        return pieces

    def _run(self, steps: Iterator[bytes]) -> list[bytes]:
        begun, size = self._clock(), 0
        made = []
        for step in steps:
            made.append(step)
            size += len(step)
            if size >= PIECE or self._used + self._clock() - begun >= SLICE:
                break
        self._used += self._clock() - begun
        return made
