"""The drift watch: a slow look at QEMU, so that what happens behind the guard's back is noticed and shown."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.policy.machine import OVER
from qmpguard.policy.survey import Unexpected

if TYPE_CHECKING:
    from qmpguard.proxy.judging.gate import Gate

log = logging.getLogger(__name__)

#: seconds between two looks, and while a migration runs
IDLE, MIGRATING = 30.0, 1.0
#: seconds after a change through the guard until the next look
SETTLE = 1.0


class DriftWatch:
    """Looks at one VM while its link lasts. ``interval`` is in seconds, 0: never; a look is some five small queries."""

    def __init__(self, gate: Gate, name: str, interval: float = IDLE) -> None:
        self._gate = gate
        self._name = name
        self._interval = interval
        self._soon = asyncio.Event()

    def soon(self) -> None:
        """Look when what has just been changed through the guard has settled."""
        self._soon.set()

    def adopt(self, interval: float) -> None:
        """Look at other intervals from now on."""
        if interval != self._interval:
            self._interval = interval
            self._soon.set()  # the wait that is under way is for the old one

    async def run(self) -> None:
        """Look at QEMU until cancelled: when the link is up, then at intervals, and after changes."""
        self._soon.set()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._soon.wait()
            if self._soon.is_set():
                await asyncio.sleep(min(self._interval, SETTLE))
                self._soon.clear()
            if self._interval:
                await self._look()

    async def _look(self) -> None:
        try:
            await self._gate.look()
        except (TimeoutError, UnavailableError, Unexpected) as error:
            log.info("vm=%s look failed: %s", self._name, str(error) or "QEMU is busy")

    @property
    def _pause(self) -> float | None:
        if not self._interval:
            return None
        return min(self._interval, MIGRATING) if self._migrating else self._interval

    @property
    def _migrating(self) -> bool:
        migration = self._gate.baseline.facts.migration
        return migration is not None and migration.status not in OVER | {"none"}
