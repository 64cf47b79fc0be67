"""Cooperative scheduling: long work is cut into slices, and the event loop serves all other tasks between two slices.

Long work is an iterator of steps: each yields a few hundred bytes, or none, after some microseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: seconds of work in one iteration of the event loop. A VM's client waits at most so much longer: some round trips
SLICE_SECONDS = 0.003
#: bytes that end a slice: the high-water mark of a transport's buffer
PIECE_SIZE = 64 * 1024


class Slices:
    """Runs the steps of all streams and responses, at most one slice in each iteration of the event loop.

    ``clock`` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._used = 0.0

    async def slice(self, steps: Iterator[bytes]) -> list[bytes]:
        """Return the output of the next slice of steps; empty: the steps are finished. Raises what a step raises."""
        async with self._lock:
            try:
                return self._run(steps)
            finally:
                if self._used >= SLICE_SECONDS:
                    self._used = 0.0
                    await asyncio.sleep(0)  # the lock is held, so no other slice runs in this iteration

    async def whole(self, steps: Iterator[bytes]) -> list[bytes]:
        """Return the output of all steps, as pieces."""
        pieces = []
        while results := await self.slice(steps):
            pieces.append(b"".join(results))
        return pieces

    def _run(self, steps: Iterator[bytes]) -> list[bytes]:
        begun, size = self._clock(), 0
        results = []
        for step in steps:
            results.append(step)
            size += len(step)
            if size >= PIECE_SIZE or self._used + self._clock() - begun >= SLICE_SECONDS:
                break
        self._used += self._clock() - begun
        return results
