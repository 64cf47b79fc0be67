"""The drift watch: queries QEMU at intervals, to detect changes that were not made through the guard."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from qmpguard.config import DRIFT_INTERVAL
from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Unexpected
from qmpguard.policy.migration import OVER

if TYPE_CHECKING:
    from qmpguard.proxy.judging.gate import Gate
    from qmpguard.wire.client_messages import Request
    from qmpguard.wire.qemu_messages import QemuEvent

log = logging.getLogger(__name__)

#: seconds between two queries while a migration runs
MIGRATING = 1.0
#: seconds after a change through the guard until the next query
SETTLE = 1.0


class DriftWatch:
    """Queries one VM while its link is up, with some five small queries each time.

    ``interval`` is in seconds; 0: never.
    """

    def __init__(self, gate: Gate, name: str, interval: float = DRIFT_INTERVAL) -> None:
        self._gate = gate
        self._name = name
        self._interval = interval
        self._soon = asyncio.Event()

    def on_request(self, request: Request) -> None:
        """Called before a request of `CHANGES` is sent, so that its change is not taken for drift."""
        if self._gate.baseline.begins(request.command, request.arguments or {}):
            self.soon()

    def on_reply(self, request: Request) -> None:
        """Called when QEMU has answered such a request."""
        self._gate.baseline.ends(request.command, request.arguments or {})

    def on_event(self, event: QemuEvent) -> None:
        """Called with each event of QEMU."""
        changed = self._gate.baseline.happened(event.name, event.data)
        if self._gate.last_seen.happened(event) or changed:
            self.soon()

    def soon(self) -> None:
        """Query QEMU `SETTLE` seconds after a change through the guard."""
        self._soon.set()

    def adopt(self, interval: float) -> None:
        """Use another interval."""
        if interval != self._interval:
            self._interval = interval
            self._soon.set()  # ends the wait for the old interval

    async def run(self) -> None:
        """Query QEMU until cancelled: when the link comes up, then at intervals, and after changes."""
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
            log.info("vm=%s drift watch failed: %s", self._name, str(error) or "QEMU is busy")

    @property
    def _pause(self) -> float | None:
        if not self._interval:
            return None
        return min(self._interval, MIGRATING) if self._migrating else self._interval

    @property
    def _migrating(self) -> bool:
        migration = self._gate.baseline.facts.migration
        return migration is not None and migration.status not in OVER | {"none"}
